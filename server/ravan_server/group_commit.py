"""One writer, many requests: operations that wait at the same time share one commit.

An fsync takes milliseconds and a request microseconds, so the writer takes all operations that
have gathered while it was syncing, runs them in order in one transaction, syncs the update log, commits,
and only then answers them. An answer is therefore a promise that survives a kill or a loss of power.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ravan_edge.errors import StorageError
from ravan_edge.protocol import Reason, Refusal
from ravan_server.blobs import UpdateLog
from ravan_server.rounds import Attempt
from ravan_server.store import Store, TaskRow, Transaction

__all__ = ["GroupCommit", "Operation", "Work", "as_refusal"]

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

_MOST_OPERATIONS = 512
_RETRY_SECONDS = 10.0


@dataclass
class Work:
    """What an operation works on.

    Attributes:
        transaction: The store, inside a transaction.
        log: The update log.
        now: Seconds since 1970.
        attempt: The latest attempt. Operations change it through :meth:`save`.
        changed_tasks: Rows that were written, for whoever keeps a copy.
    """

    transaction: Transaction
    log: UpdateLog
    now: float
    attempt: Attempt
    changed_tasks: list[TaskRow] = field(default_factory=list)
    _stored: Attempt = field(init=False)

    def __post_init__(self) -> None:
        self._stored = self.attempt

    def save(self, attempt: Attempt) -> None:
        """The attempt is now this; written once, at the end of the transaction."""
        self.attempt = attempt

    def add_task(self, row: TaskRow) -> None:
        """A new task."""
        self.transaction.add_task(row)
        self.changed_tasks.append(row)

    def save_task(self, row: TaskRow) -> None:
        """A task, changed."""
        self.transaction.save_task(row)
        self.changed_tasks.append(row)

    def begin(self, attempt: Attempt) -> None:
        """Another attempt is the latest from now on."""
        self.write_attempt()
        self.transaction.add_attempt(attempt)
        self.attempt = self._stored = attempt

    def write_attempt(self) -> None:
        """Write the attempt, if it changed."""
        if self.attempt != self._stored:
            self.transaction.save_attempt(self.attempt)
            self._stored = self.attempt


Operation = Callable[[Work], Any]
"""Runs inside a transaction. It may raise a Refusal, but only before it has written anything."""


class GroupCommit:
    """The writer's thread.

    Args:
        store: Where rows go.
        log: Where updates go.
        clock: Seconds since 1970.
        on_commit: Called in the writer's thread after every commit, before anybody is answered;
            with None after one that failed, when nobody knows what the store holds. It may raise.
    """

    def __init__(
        self,
        store: Store,
        log: UpdateLog,
        clock: Callable[[], float],
        on_commit: Callable[[Work | None], None],
    ) -> None:
        self._store = store
        self._log = log
        self._clock = clock
        self._on_commit = on_commit
        self._waiting: queue.SimpleQueue[tuple[Operation, Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, operation: Callable[[Work], Result]) -> Future[Result]:
        """Queue an operation; its result once it is durable, or a Refusal."""
        future: Future[Result] = Future()
        self._waiting.put((operation, future))
        return future

    def stop(self) -> None:
        """Finish what is queued, and end."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        ending = False
        while not ending:
            first = self._waiting.get()
            batch: list[tuple[Operation, Future[Any]]] = []
            ending = self._take(first, batch)
            while not ending and len(batch) < _MOST_OPERATIONS:
                try:
                    ending = self._take(self._waiting.get_nowait(), batch)
                except queue.Empty:
                    break
            if batch:
                self._commit(batch)

    @staticmethod
    def _take(
        item: tuple[Operation, Future[Any]] | None, batch: list[tuple[Operation, Future[Any]]]
    ) -> bool:
        """Put what was queued into the batch; whether it was the sign to end."""
        if item is None:
            return True
        # A request whose client has gone is not begun; once begun it cannot be cancelled.
        if item[1].set_running_or_notify_cancel():
            batch.append(item)
        return False

    def _commit(self, batch: list[tuple[Operation, Future[Any]]]) -> None:
        answers: list[tuple[Future[Any], Any, Refusal | None]] = []
        try:
            with self._store.writing() as transaction:
                work = Work(transaction, self._log, self._clock(), transaction.attempt())
                for operation, future in batch:
                    try:
                        answers.append((future, operation(work), None))
                    except Refusal as refusal:
                        answers.append((future, None, refusal))
                work.write_attempt()
                self._log.sync()
            self._on_commit(work)
        except BaseException as error:  # noqa: BLE001  (whoever waits must hear of it)
            self._log.give_up()
            try:
                self._on_commit(None)
            except Exception as again:  # noqa: BLE001  (the writer outlives whatever the disk does)
                _log.error("the state cannot be read: %s", again)
            failure = as_refusal(error) if isinstance(error, StorageError) else error
            for _, future in batch:
                future.set_exception(failure)
            return
        for future, result, refused in answers:
            if refused is None:
                future.set_result(result)
            else:
                future.set_exception(refused)


def as_refusal(error: StorageError) -> Refusal:
    """What a client is told when the disk of the server fails."""
    return Refusal(Reason.STORAGE, str(error), retry_after_seconds=_RETRY_SECONDS)
