"""One writer, many requests: operations that wait at the same time share one commit.

An fsync takes milliseconds and a request microseconds, so the writer takes all operations that
have gathered while it was syncing, runs them in order in one transaction, syncs the update log, commits,
and only then answers them. An answer is therefore a promise that survives a kill or a loss of power.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from ravan_edge.errors import StorageError
from ravan_edge.protocol import Reason, Refusal
from ravan_server.blobs import UpdateLog
from ravan_server.events import Event, log_event
from ravan_server.meters import Meters
from ravan_server.rounds import Attempt
from ravan_server.store import Store, TaskRow, TaskState, Transaction

__all__ = ["GroupCommit", "Memory", "Operation", "Work", "as_refusal"]

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

_MOST_OPERATIONS = 512
_RETRY_SECONDS = 10.0
_ID_BYTES = 16
_IDS_AT_ONCE = 32


class Memory(Protocol):
    """What the store held after a commit, as far as operations ask for it."""

    @property
    def revision(self) -> int:
        """Of the store then."""
        ...

    @property
    def attempt(self) -> Attempt:
        """The latest attempt."""
        ...

    @property
    def tasks(self) -> Mapping[str, TaskRow]:
        """All tasks that it is about, by id."""
        ...

    @property
    def task_of(self) -> Mapping[str, TaskRow]:
        """What :meth:`Work.task_of` finds."""
        ...


@dataclass
class Work:
    """What an operation works on.

    Rows are written together, at the end of the transaction: one statement for many costs far less than
    one for each. Until then they are read from here.

    Attributes:
        transaction: The store, inside a transaction.
        log: The update log.
        now: Seconds since 1970.
        attempt: The latest attempt. Operations change it through :meth:`save`.
        memory: What the store held when the transaction began; None: it is asked for everything.
        revision: Of the store, after this transaction.
        changed_tasks: Rows that were written, for whoever keeps a copy.
    """

    transaction: Transaction
    log: UpdateLog
    now: float
    attempt: Attempt
    memory: Memory | None = None
    revision: int = 0
    changed_tasks: list[TaskRow] = field(default_factory=list)
    _stored: Attempt = field(init=False)
    _drawn: bytes = b""
    _numbers: dict[str, int | None] = field(default_factory=dict)
    _new_numbers: dict[str, int] = field(default_factory=dict)
    _added: dict[str, TaskRow] = field(default_factory=dict)
    _saved: dict[str, TaskRow] = field(default_factory=dict)
    _task_of: dict[str, TaskRow | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stored = self.attempt

    def save(self, attempt: Attempt) -> None:
        """The attempt is now this; written once, at the end of the transaction."""
        self.attempt = attempt

    def expect(self, devices: Iterable[str]) -> None:
        """These devices will be asked for: look up their numbers at once."""
        missing = [device for device in devices if device not in self._numbers]
        self._numbers.update(dict.fromkeys(missing))
        self._numbers.update(self.transaction.numbers(missing))

    def number(self, device: str) -> int:
        """The number of a device; a new one gets the next free number, from 0."""
        if device not in self._numbers:
            self.expect([device])
        number = self._numbers[device]
        if number is None:
            if self._new_numbers:
                number = next(reversed(self._new_numbers.values())) + 1
            else:
                number = self.transaction.devices()
            self._numbers[device] = self._new_numbers[device] = number
        return number

    def new_task(self) -> str:
        """A task's id that nobody can guess."""
        if not self._drawn:  # many at once: each call of the system lets another thread go first
            self._drawn = secrets.token_bytes(_ID_BYTES * _IDS_AT_ONCE)
        own, self._drawn = self._drawn[:_ID_BYTES], self._drawn[_ID_BYTES:]
        return urlsafe_b64encode(own).rstrip(b"=").decode()

    def task(self, task: str) -> TaskRow | None:
        """A task by its id."""
        row = self._added.get(task) or self._saved.get(task)
        if row is None and self.memory is not None:
            row = self.memory.tasks.get(task)
        return row or self.transaction.task(task)

    def task_of(self, device: str) -> TaskRow | None:
        """The task that a device has; where it has none, the one that the latest attempt gave it."""
        if device in self._task_of:
            return self._task_of[device]
        if self.memory is not None and self.memory.attempt.id == self.attempt.id:
            return self.memory.task_of.get(device)
        return self.transaction.task_of(self.attempt.id, device)

    def add_task(self, row: TaskRow) -> None:
        """A new task of the latest attempt."""
        self._added[row.task] = row
        self._changed(row)

    def save_task(self, row: TaskRow) -> None:
        """A task, changed."""
        (self._added if row.task in self._added else self._saved)[row.task] = row
        self._changed(row)

    def end_out(self, after: TaskState, before_version: int | None = None) -> int:
        """Move tasks that are out to another state, as :meth:`Transaction.end_out` does."""
        self.settle()
        return self.transaction.end_out(after, self.now, before_version)

    def end_stored(self, after: TaskState) -> None:
        """Move all tasks whose updates are stored for the latest attempt to another state."""
        self.settle()
        self.transaction.end_stored(self.attempt.id, after)

    def settle(self) -> None:
        """Write what changed; from now on the store is asked for everything."""
        self.write()
        self.memory = None

    def begin(self, attempt: Attempt) -> None:
        """Another attempt is the latest from now on."""
        self.write()
        self.transaction.add_attempt(attempt)
        self.attempt = self._stored = attempt

    def write(self) -> None:
        """Write what changed."""
        if self._new_numbers:
            self.transaction.add_devices(self._new_numbers)
        if self._added:
            self.transaction.add_tasks(list(self._added.values()))
        if self._saved:
            self.transaction.save_tasks(list(self._saved.values()))
        for written in (self._new_numbers, self._added, self._saved, self._task_of):
            written.clear()
        if self.attempt != self._stored:
            self.transaction.save_attempt(self.attempt)
            self._stored = self.attempt

    def _changed(self, row: TaskRow) -> None:
        self.changed_tasks.append(row)
        # A task of an earlier attempt that ends leaves its device without one.
        is_its = row.state is TaskState.TRAINING or row.attempt == self.attempt.id
        self._task_of[row.device] = row if is_its else None


Operation = Callable[[Work], Any]
"""Runs inside a transaction. It may raise a Refusal, but only before it has written anything."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    operation: Operation
    future: Future[Any]
    device: str | None


class GroupCommit:
    """The writer's thread.

    Args:
        store: Where rows go.
        log: Where updates go.
        clock: Seconds since 1970.
        on_commit: Called in the writer's thread after every commit, before anybody is answered;
            with None after one that failed, when nobody knows what the store holds. It may raise.
        memory: What the store held at the end of a revision, to spare reading it; asked at the beginning of
            each transaction, which has written nothing, with the revision before. It is not looked at where
            it is of another one. None: operations read everything.
        meters: What counts commits.
    """

    def __init__(
        self,
        store: Store,
        log: UpdateLog,
        clock: Callable[[], float],
        on_commit: Callable[[Work | None], None],
        memory: Callable[[Transaction, int], Memory | None] = lambda *_: None,
        meters: Meters | None = None,
    ) -> None:
        self._store = store
        self._log = log
        self._clock = clock
        self._on_commit = on_commit
        self._memory = memory
        self._meters = meters or Meters()
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(
        self, operation: Callable[[Work], Result], *, device: str | None = None
    ) -> Future[Result]:
        """Queue an operation; its result once it is durable, or a Refusal.

        Args:
            operation: What to do.
            device: The device that it will give a task to, so that many are looked up at once.
        """
        future: Future[Result] = Future()
        self._waiting.put(_Waiting(operation, future, device))
        return future

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Finish what is queued, and end."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        ending = False
        while not ending:
            first = self._waiting.get()
            batch: list[_Waiting] = []
            ending = self._take(first, batch)
            while not ending and len(batch) < _MOST_OPERATIONS:
                try:
                    ending = self._take(self._waiting.get_nowait(), batch)
                except queue.Empty:
                    break
            if batch:
                self._commit(batch)

    @staticmethod
    def _take(item: _Waiting | None, batch: list[_Waiting]) -> bool:
        """Put what was queued into the batch; whether it was the sign to end."""
        if item is None:
            return True
        # A request whose client has gone is not begun; once begun it cannot be cancelled.
        if item.future.set_running_or_notify_cancel():
            batch.append(item)
        return False

    def _work(self, transaction: Transaction) -> Work:
        revision = transaction.revision
        memory = self._memory(transaction, revision - 1)
        if memory is not None and memory.revision != revision - 1:
            memory = None
        attempt = transaction.attempt() if memory is None else memory.attempt
        return Work(transaction, self._log, self._clock(), attempt, memory, revision)

    def _commit(self, batch: list[_Waiting]) -> None:
        answers: list[tuple[Future[Any], Any, Refusal | None]] = []
        began, count = time.perf_counter(), len(batch)
        try:
            with self._store.writing() as transaction:
                work = self._work(transaction)
                work.expect(each.device for each in batch if each.device is not None)
                for each in batch:
                    try:
                        answers.append((each.future, each.operation(work), None))
                    except Refusal as refusal:
                        answers.append((each.future, None, refusal))
                work.write()
                self._log.sync()
            self._on_commit(work)
        except BaseException as error:  # noqa: BLE001  (whoever waits must hear of it)
            failure = as_refusal(error) if isinstance(error, StorageError) else error
            try:
                self._log.give_up()
                self._on_commit(None)
            except Exception as again:  # noqa: BLE001  (the answers come first, and nobody else writes)
                text = "the state cannot be read, the next commit tries again: %(error)s"
                log_event(_log, logging.ERROR, Event.STORAGE_FAILED, text, error=str(again))
            self._meters.commit(count, time.perf_counter() - began, failed=True)
            for each in batch:
                each.future.set_exception(failure)
            return
        self._meters.commit(count, time.perf_counter() - began)
        for future, result, refused in answers:
            if refused is None:
                future.set_result(result)
            else:
                future.set_exception(refused)


def as_refusal(error: StorageError) -> Refusal:
    """What a client is told when the disk of the server fails."""
    return Refusal(Reason.STORAGE, str(error), retry_after_seconds=_RETRY_SECONDS)
