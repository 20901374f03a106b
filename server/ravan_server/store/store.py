"""What every store can do. One writer at a time works inside a transaction, which is all or nothing.

A store knows no rules: it keeps rows. Rules are in ``rounds.py`` and ``operations.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from ravan_server.rounds import Attempt
from ravan_server.store.rows import (
    IdentityRow,
    InvitationRow,
    RunRow,
    TaskCount,
    TaskRow,
    TaskState,
    VersionRow,
)

__all__ = ["MERGING", "SCORING", "History", "Identities", "Store", "Transaction"]

MERGING = "merging"
SCORING = "scoring"


class Identities(Protocol):
    """Who may take part: invitations, and the devices that used them."""

    def invitation(self, token_sha256: str) -> InvitationRow | None:
        """An invitation by the digest of its token."""
        ...

    def invitations(self, most: int) -> Sequence[InvitationRow]:
        """The latest invitations, the latest first."""
        ...

    def add_invitation(self, row: InvitationRow) -> None:
        """A new invitation; its number is one more than the latest."""
        ...

    def save_invitation(self, row: InvitationRow) -> None:
        """An invitation that is there, changed."""
        ...

    def identity(self, device: str) -> IdentityRow | None:
        """An enrolled device."""
        ...

    def revoked_after(self, revision: int) -> Sequence[str]:
        """Devices that later transactions shut out."""
        ...

    def identities(self, after: int, most: int) -> Sequence[IdentityRow]:
        """Enrolled devices behind an entry, ascending."""
        ...

    def latest_keys(self, most: int) -> Sequence[tuple[str, str]]:
        """Devices that are not shut out and their keys, the latest first."""
        ...

    def last_entry(self) -> int:
        """Of the device that enrolled last; 0: none did."""
        ...

    def add_identity(self, row: IdentityRow) -> None:
        """A new device."""
        ...

    def save_identity(self, row: IdentityRow) -> None:
        """A device that is there, changed."""
        ...


class History(Protocol):
    """What became of attempts, for those who watch. It only reads."""

    def attempts(self, after: int, most: int) -> Sequence[Attempt]:
        """The first ``most`` attempts behind an id, ascending."""
        ...

    def task_counts(self, first: int, last: int) -> Sequence[TaskCount]:
        """Tasks of these attempts, counted by attempt, state and reason."""
        ...

    def versions_made(self, first: int, last: int) -> Mapping[int, int]:
        """The versions that these attempts made, by attempt."""
        ...

    def tasks(self, attempt: int, after: int, most: int) -> Sequence[TaskRow]:
        """Tasks of an attempt in the order of their assignment, without the first ``after``."""
        ...


class Transaction(Protocol):
    """Reading and writing inside one transaction."""

    @property
    def identities(self) -> Identities:
        """Who may take part."""
        ...

    @property
    def history(self) -> History:
        """What became of attempts."""
        ...

    @property
    def revision(self) -> int:
        """How many transactions have written, this one included: a copy of another one is old."""
        ...

    @property
    def recovered(self) -> int:
        """The revision of the latest recovery: what was on its way before is gone since then."""
        ...

    def mark_recovered(self) -> None:
        """This transaction recovers the run."""
        ...

    def run(self) -> RunRow | None:
        """The run, if there is one."""
        ...

    def begin_run(self, row: RunRow) -> None:
        """Say what the run is, once."""
        ...

    def attempt(self) -> Attempt:
        """The latest attempt.

        Raises:
            StorageError: There is none, though a run begins with one.
        """
        ...

    def attempt_of(self, attempt: int) -> Attempt | None:
        """An attempt by its id."""
        ...

    def add_attempt(self, attempt: Attempt) -> None:
        """A new attempt; its id is free."""
        ...

    def save_attempt(self, attempt: Attempt) -> None:
        """An attempt that is there, changed."""
        ...

    def attempts(self, state: str) -> int:
        """How many attempts are in a state."""
        ...

    def numbers(self, devices: Sequence[str]) -> Mapping[str, int]:
        """The numbers of those of these devices that have one."""
        ...

    def add_devices(self, numbers: Mapping[str, int]) -> None:
        """New devices with their numbers, which go on behind :meth:`devices`."""
        ...

    def devices(self) -> int:
        """How many devices have a number: all from 0 on."""
        ...

    def task(self, task: str) -> TaskRow | None:
        """A task by its id."""
        ...

    def task_of(self, attempt: int, device: str) -> TaskRow | None:
        """The task that a device has; where it has none, the one that this attempt gave it."""
        ...

    def tasks(self, attempt: int) -> Sequence[TaskRow]:
        """All tasks that an attempt gave out, in the order of their assignment."""
        ...

    def tasks_out(self) -> Sequence[TaskRow]:
        """All tasks that are out, in the same order."""
        ...

    def tasks_stored(self, attempt: int) -> Sequence[TaskRow]:
        """All tasks whose updates are stored for an attempt, in the same order."""
        ...

    def tasks_written(self, after: int) -> Sequence[TaskRow]:
        """Tasks that later transactions of a shared store wrote, in the same order."""
        ...

    def add_tasks(self, rows: Sequence[TaskRow]) -> None:
        """New tasks; a device has one of an attempt at most."""
        ...

    def save_tasks(self, rows: Sequence[TaskRow]) -> None:
        """Tasks that are there, changed: their state, and what came with it."""
        ...

    def extend_deadlines(self, deadline_at: float) -> None:
        """Tasks that are out and have a deadline have this one."""
        ...

    def end_out(self, after: TaskState, now: float, before_version: int | None = None) -> int:
        """Move all tasks that are out to another state; how many there were.

        Args:
            after: That state.
            now: Seconds since 1970.
            before_version: Only those that started from an earlier version; None: all.
        """
        ...

    def end_stored(self, attempt: int, after: TaskState) -> None:
        """Move all tasks whose updates are stored for an attempt to another state."""
        ...

    def latest_version(self) -> VersionRow:
        """The latest version.

        Raises:
            StorageError: There is none, though a run begins with one.
        """
        ...

    def version(self, version: int) -> VersionRow | None:
        """A version by its number."""
        ...

    def versions(self) -> Sequence[VersionRow]:
        """All versions, ascending."""
        ...

    def keeps(self, heads: str) -> bool:
        """Whether these are the heads of a version that is kept."""
        ...

    def save_version(self, row: VersionRow) -> None:
        """A version that is there, changed."""
        ...

    def add_version(self, row: VersionRow) -> None:
        """A new version."""
        ...


class Store(Protocol):
    """Where rows are kept."""

    @property
    def shared(self) -> bool:
        """Whether several processes may have it."""
        ...

    @property
    def alone(self) -> bool:
        """Whether no other process had it when this one opened it; none comes before :meth:`admit_others`."""
        ...

    def admit_others(self) -> None:
        """What only one process may do is done: from now on others may open a shared one."""
        ...

    def hold(self) -> None:
        """Make sure that others still see that this process has it.

        Raises:
            StorageError: They do not, and may recover the run now.
        """
        ...

    def only_one(self, work: str) -> AbstractContextManager[bool]:
        """Whether this process may do something that only one of them does at a time. It never waits.

        Args:
            work: What: :data:`MERGING` or :data:`SCORING`. Once the block has ended, or the process was
                killed, another one may do it.
        """
        ...

    def now(self) -> float:
        """Seconds since 1970, by a clock that is the same for all processes."""
        ...

    def writing(self) -> AbstractContextManager[Transaction]:
        """A transaction that is durable once its block has ended, and undone if the block raises.

        Raises:
            StorageError: It could not be made durable; nothing of it stays.
        """
        ...

    def reading(self) -> AbstractContextManager[Transaction]:
        """One consistent look, from any thread; it must not write."""
        ...

    def close(self) -> None:
        """Nothing is open after this."""
        ...
