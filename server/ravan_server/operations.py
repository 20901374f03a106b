"""What requests do to the store, one function each: run by the writer, all or nothing.

Each checks everything before it writes anything. The copy in memory that requests look at first
(``view.py``) may be a moment old; what stands here is the truth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ravan_edge.protocol import (
    CheckIn,
    DeviceFailure,
    Reason,
    Receipt,
    Refusal,
    UpdateInfo,
    WaitReason,
)
from ravan_server.group_commit import Work
from ravan_server.rounds import AttemptState
from ravan_server.settings import RoundSettings
from ravan_server.store import StoredUpdate, TaskRow, TaskState, VersionRow

_MERGING_SECONDS = 1.0

__all__ = [
    "CheckedUpdate",
    "accept_update",
    "assign",
    "check_owner",
    "forget_old",
    "give_back",
    "go_back",
    "is_overdue",
    "probe",
    "record_merge",
    "record_scores",
    "refuse_ended",
    "repeated",
    "turn",
]


@dataclass(frozen=True)
class CheckedUpdate:
    """An update that was received whole and found to be one.

    Attributes:
        info: What it says about itself.
        content: Its bytes, as they were sent.
        sha256: Of them.
    """

    info: UpdateInfo
    content: bytes | bytearray
    sha256: str


def assign(work: Work, check_in: CheckIn, plan: str) -> TaskRow | WaitReason:
    """A task for a device, the one it has already, or why there is none.

    Args:
        work: What to work on.
        check_in: What the device said.
        plan: The plan it is to run.
    """
    attempt = work.attempt
    if attempt.state is not AttemptState.OPEN:
        return WaitReason.MERGING
    found = work.task_of(check_in.device)
    if found is not None:
        # The answer to its last check-in was lost, or it was killed: the same task again.
        return found if found.state is TaskState.TRAINING else WaitReason.TOOK_PART
    if not attempt.free_places:
        return WaitReason.ROUND_FULL
    row = TaskRow(
        task=work.new_task(),
        attempt=attempt.id,
        version=attempt.version,
        device=check_in.device,
        number=work.number(check_in.device),
        plan=plan,
        heads_to_train=check_in.heads_to_train,
        state=TaskState.TRAINING,
        assigned_at=work.now,
        deadline_at=attempt.task_deadline(work.now),
    )
    work.add_task(row)
    work.save(attempt.assigned(work.now))
    return row


def repeated(row: TaskRow, sha256: str) -> Receipt | None:
    """The answer to an upload that was acknowledged before; None: there was none.

    Raises:
        Refusal: Another update is stored for this task.
    """
    stored = row.update
    if stored is None:
        return None
    if stored.sha256 != sha256:
        raise Refusal(
            Reason.DIFFERENT_UPDATE,
            f"the stored update of task {row.task} has sha256 {stored.sha256}, this one {sha256}: "
            "a task has one update, the first counts",
        )
    return Receipt(
        task=row.task, status="already_have_it", sha256=stored.sha256, bytes=stored.bytes
    )


def refuse_ended(row: TaskRow) -> None:
    """Refuse work on a task that is not out any more.

    Raises:
        Refusal: Says how it ended.
    """
    if row.state is TaskState.GIVEN_BACK:
        raise Refusal(Reason.TASK_GIVEN_BACK, f"task {row.task} was given back: check in again")
    if row.state is TaskState.STALE:
        raise Refusal(
            Reason.ROUND_OVER,
            f"task {row.task} started from version {row.version}, and too many were made since: "
            "check in again",
        )
    if row.state is not TaskState.TRAINING:
        raise Refusal(Reason.ROUND_OVER, f"the round of task {row.task} is over: check in again")


def is_overdue(row: TaskRow, now: float) -> bool:
    """Whether a task is out, and longer than it may be."""
    return (
        row.state is TaskState.TRAINING and row.deadline_at is not None and row.deadline_at <= now
    )


def accept_update(work: Work, task: str, update: CheckedUpdate) -> Receipt:
    """Store an update and count it, once."""
    row = check_owner(work.task(task), task, None)
    receipt = repeated(row, update.sha256)
    if receipt is not None:
        return receipt
    refuse_ended(row)
    attempt = work.attempt
    if attempt.is_async and attempt.state is AttemptState.CLOSED:
        raise Refusal(
            Reason.BUSY,
            "a version is being made: send the update again",
            retry_after_seconds=_MERGING_SECONDS,
        )
    is_its = attempt.is_async or row.attempt == attempt.id
    if not is_its or attempt.state is not AttemptState.OPEN:
        raise Refusal(Reason.ROUND_OVER, f"the round of task {task} is over: check in again")
    weight = attempt.weight(update.info.examples, row.version)
    segment, offset = work.log.append(attempt.id, update.content)
    stored = StoredUpdate(
        sha256=update.sha256,
        segment=segment,
        offset=offset,
        bytes=len(update.content),
        examples=update.info.examples,
        steps=update.info.steps,
        counted_in=attempt.id,
        count=weight.count,
        factor=weight.factor,
    )
    work.save_task(replace(row, state=TaskState.ACCEPTED, ended_at=work.now, update=stored))
    work.save(attempt.stored(work.now))
    return Receipt(task=task, status="accepted", sha256=stored.sha256, bytes=stored.bytes)


def give_back(work: Work, task: str, failure: DeviceFailure, device: str | None = None) -> None:
    """A device cannot do its task. Saying so twice is harmless."""
    row = check_owner(work.task(task), task, device)
    if row.state is TaskState.GIVEN_BACK:
        return
    refuse_ended(row)
    detail = f": {failure.detail}" if failure.detail else ""
    work.save_task(
        replace(
            row,
            state=TaskState.GIVEN_BACK,
            ended_at=work.now,
            failure=f"{failure.reason}{detail}",
        )
    )
    if work.attempt.is_async or row.attempt == work.attempt.id:
        work.save(work.attempt.given_back())


def turn(work: Work, settings: RoundSettings, seed: int) -> None:
    """Let time pass: a deadline ends the attempt, or a task; one that failed is followed by another."""
    work.save(work.attempt.at(work.now))
    if work.attempt.state is AttemptState.FAILED:
        work.end_out(TaskState.LATE)
        work.end_stored(TaskState.UNUSED)
        version = work.attempt.version
        work.begin(work.attempt.following(version, settings, seed, work.now))
        return
    if work.attempt.is_async:
        work.settle()  # what operations before this one did is looked at, too
        late = [row for row in work.transaction.tasks_out() if is_overdue(row, work.now)]
        for row in late:
            work.save_task(replace(row, state=TaskState.LATE, ended_at=work.now))
        work.save(work.attempt.given_back(len(late)))


def record_merge(
    work: Work, version: VersionRow, settings: RoundSettings, seed: int, rounds: int, since: int
) -> bool:
    """The closed attempt has become a version, whose heads file is durable; False: it is not wanted.

    Args:
        work: What to work on.
        version: What was made.
        settings: Of the next attempt.
        seed: Of the run.
        rounds: Of the run.
        since: The store's revision before any file of the version was written.
    """
    attempt = work.attempt
    if attempt.id != version.attempt or attempt.state is not AttemptState.CLOSED:
        return False  # recorded before, or an operator went back to other heads meanwhile
    if work.transaction.recovered > since:
        return False  # another process recovered the run, and may have deleted the files: make them again
    work.transaction.add_version(version)
    work.end_stored(TaskState.MERGED)
    goes_on = attempt.round < rounds
    out = attempt.training
    if goes_on and attempt.keeps_tasks(settings):
        most = settings.rule.max_staleness
        if most is not None:
            out -= work.end_out(TaskState.STALE, before_version=version.version - most)
    else:
        work.end_out(TaskState.LATE)
        out = 0
    work.save(attempt.merged())
    if goes_on:
        work.begin(work.attempt.following(version.version, settings, seed, work.now, out))
    return True


def go_back(
    work: Work, version: VersionRow, settings: RoundSettings, seed: int, since: int
) -> bool:
    """An older version's heads are the latest again, as a new version; False: another was quicker.

    Args:
        work: What to work on.
        version: What was made.
        settings: Of the next attempt.
        seed: Of the run.
        since: As of :func:`record_merge`.
    """
    latest = work.transaction.latest_version()
    if version.version != latest.version + 1 or work.transaction.recovered > since:
        return False
    work.transaction.add_version(version)
    attempt = work.attempt
    if attempt.state is not AttemptState.MERGED:  # the run is not finished
        work.end_out(TaskState.LATE)
        work.end_stored(TaskState.UNUSED)
        work.save(attempt.abandoned(work.now))
        work.begin(work.attempt.following(version.version, settings, seed, work.now))
    return True


def probe(work: Work) -> None:
    """Write what is there already: that tells whether the disk takes it."""
    work.transaction.save_attempt(work.attempt)


def record_scores(work: Work, version: int, scores: str) -> None:
    """What an evaluation found."""
    row = work.transaction.version(version)
    if row is not None:
        work.transaction.save_version(replace(row, scores=scores))


def forget_old(work: Work, keep: int) -> list[VersionRow]:
    """Mark the versions that the retention rule lets go; their files may be deleted afterwards.

    Version 0 and the latest ``keep`` stay, and those that tasks start from which are out.
    """
    rows = work.transaction.versions()
    needed = {row.version for row in work.transaction.tasks_out()}
    old = [row for row in rows[1:-keep] if not row.deleted and row.version not in needed]
    for row in old:
        work.transaction.save_version(replace(row, deleted=True))
    return old


def check_owner(row: TaskRow | None, task: str, device: str | None) -> TaskRow:
    """A task that a device asks for; of another's it is told no more than of one that there is not.

    Args:
        row: What there is under the id.
        task: The id.
        device: Who asks; None: nobody has to say so.

    Raises:
        Refusal: There is no such task, or it is another device's.
    """
    if row is None or (device is not None and row.device != device):
        raise Refusal(Reason.NO_SUCH_TASK, f"there is no task {task[:64]}: check in again")
    return row
