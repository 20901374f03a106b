"""A copy in memory of what requests ask for most: the latest attempt, its tasks, its heads.

It follows each commit of this process, and what others wrote when this one writes next or looks around. All
threads read it. It may be a moment old, so it decides only what costs nothing when it is wrong: that a device
shall come back later, or what a task is before its upload begins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ravan_edge.protocol import RunState
from ravan_server.group_commit import Work
from ravan_server.operations import is_overdue
from ravan_server.rounds import Attempt, AttemptState
from ravan_server.store import TaskRow, TaskState, Transaction, VersionRow

__all__ = ["View"]


@dataclass
class View:
    """What the store held at the last commit.

    Attributes:
        attempt: The latest attempt.
        heads: The version its devices start from.
        tasks: Those that it gave out, all that are out, and those whose updates are stored for it.
        task_of: The task that a device has; where it has none, the one that the attempt gave it.
        earlier: Attempts that gave out what is still out, and the versions they started from, by id.
        devices: How many devices ever had a task.
        failed_attempts: How many attempts failed.
        revision: Of the store.
    """

    attempt: Attempt
    heads: VersionRow
    tasks: dict[str, TaskRow] = field(default_factory=dict)
    task_of: dict[str, TaskRow] = field(default_factory=dict)
    earlier: dict[int, tuple[Attempt, VersionRow]] = field(default_factory=dict)
    devices: int = 0
    failed_attempts: int = 0
    revision: int = 0

    @classmethod
    def load(cls, transaction: Transaction, revision: int | None = None) -> View:
        """What the store holds.

        Args:
            transaction: It has written nothing.
            revision: The latest that is over; None: that of the transaction, which only reads.
        """
        attempt = transaction.attempt()
        view = cls(
            attempt,
            transaction.latest_version(),
            devices=transaction.devices(),
            failed_attempts=transaction.attempts(AttemptState.FAILED),
            revision=transaction.revision if revision is None else revision,
        )
        view._remember(transaction.tasks(attempt.id))
        view._remember(transaction.tasks_stored(attempt.id))
        out = transaction.tasks_out()
        view._remember(out)
        for number in {row.attempt for row in out} - {attempt.id}:
            found = transaction.attempt_of(number)
            heads = None if found is None else transaction.version(found.version)
            if found is not None and heads is not None:
                view.earlier[number] = found, heads
        return view

    def caught_up(self, transaction: Transaction, revision: int) -> View:
        """This view with what other processes of a shared store wrote; another one, if an attempt began.

        Args:
            transaction: It has written nothing.
            revision: The latest that is over.
        """
        attempt = transaction.attempt()
        if attempt.id != self.attempt.id or attempt.state is AttemptState.MERGED:
            return View.load(transaction, revision)
        self._remember(transaction.tasks_written(self.revision))
        self.heads = transaction.latest_version()  # its scores may be new
        self.attempt, self.revision = attempt, revision
        self.devices = transaction.devices()
        return self

    def follow(self, work: Work) -> bool:
        """Take over what a commit changed; False: another attempt began, or a commit was not seen."""
        if work.revision <= self.revision:  # whoever looked around was quicker
            return True
        if work.revision != self.revision + 1:
            return False
        if work.attempt.id != self.attempt.id or work.attempt.state is AttemptState.MERGED:
            return False
        self._remember(work.changed_tasks)
        self.attempt, self.revision = work.attempt, work.revision
        self.devices = max(self.devices, *(row.number + 1 for row in work.changed_tasks), 0)
        return True

    def origin(self, row: TaskRow) -> tuple[Attempt, VersionRow] | None:
        """The attempt that gave out a task, and the version it starts from; None: it is over."""
        if row.attempt == self.attempt.id:
            return self.attempt, self.heads
        return self.earlier.get(row.attempt)

    def overdue(self, now: float) -> list[TaskRow]:
        """Tasks that are out, and whose own deadline has passed."""
        return [row for row in list(self.tasks.values()) if is_overdue(row, now)]

    @property
    def state(self) -> RunState:
        """In a word."""
        if self.attempt.state is AttemptState.CLOSED:
            return RunState.MERGING
        if self.attempt.state is AttemptState.MERGED:
            return RunState.FINISHED
        if self.attempt.training or self.attempt.accepted:
            return RunState.RUNNING
        return RunState.WAITING

    def _remember(self, rows: Iterable[TaskRow]) -> None:
        for row in rows:
            self.tasks[row.task] = row
            if row.state is TaskState.TRAINING or row.attempt == self.attempt.id:
                self.task_of[row.device] = row
            else:
                known = self.task_of.get(row.device)
                if known is not None and known.task == row.task:
                    del self.task_of[row.device]  # a task of an earlier attempt has ended
