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

__all__ = [
    "CheckedUpdate",
    "accept_update",
    "assign",
    "check_owner",
    "forget_old",
    "give_back",
    "go_back",
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
        device=check_in.device,
        number=work.number(check_in.device),
        plan=plan,
        heads_to_train=check_in.heads_to_train,
        state=TaskState.TRAINING,
        assigned_at=work.now,
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
    if row.state is not TaskState.TRAINING:
        raise Refusal(Reason.ROUND_OVER, f"the round of task {row.task} is over: check in again")


def accept_update(work: Work, task: str, update: CheckedUpdate) -> Receipt:
    """Store an update and count it, once."""
    row = check_owner(work.task(task), task, None)
    receipt = repeated(row, update.sha256)
    if receipt is not None:
        return receipt
    refuse_ended(row)
    attempt = work.attempt
    if row.attempt != attempt.id or attempt.state is not AttemptState.OPEN:
        raise Refusal(Reason.ROUND_OVER, f"the round of task {task} is over: check in again")
    segment, offset = work.log.append(attempt.id, update.content)
    stored = StoredUpdate(
        sha256=update.sha256,
        segment=segment,
        offset=offset,
        bytes=len(update.content),
        examples=update.info.examples,
        steps=update.info.steps,
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
    if row.attempt == work.attempt.id:
        work.save(work.attempt.given_back())


def turn(work: Work, settings: RoundSettings, seed: int) -> None:
    """Let time pass: a deadline ends the attempt; one that failed is followed by another."""
    work.save(work.attempt.at(work.now))
    if work.attempt.state is AttemptState.FAILED:
        work.end_tasks(work.attempt.id, TaskState.TRAINING, TaskState.LATE)
        work.end_tasks(work.attempt.id, TaskState.ACCEPTED, TaskState.UNUSED)
        version = work.attempt.version
        work.begin(work.attempt.following(version, settings, seed, work.now))


def record_merge(
    work: Work, version: VersionRow, settings: RoundSettings, seed: int, rounds: int
) -> bool:
    """The closed attempt has become a version, whose heads file is durable; False: it is not wanted."""
    attempt = work.attempt
    if attempt.id != version.attempt or attempt.state is not AttemptState.CLOSED:
        return False  # recorded before, or an operator went back to other heads meanwhile
    work.transaction.add_version(version)
    work.end_tasks(attempt.id, TaskState.ACCEPTED, TaskState.MERGED)
    work.end_tasks(attempt.id, TaskState.TRAINING, TaskState.LATE)
    work.save(attempt.merged())
    if attempt.round < rounds:
        work.begin(work.attempt.following(version.version, settings, seed, work.now))
    return True


def go_back(work: Work, version: VersionRow, settings: RoundSettings, seed: int) -> bool:
    """An older version's heads are the latest again, as a new version; False: another was quicker."""
    latest = work.transaction.latest_version()
    if version.version != latest.version + 1:
        return False
    work.transaction.add_version(version)
    attempt = work.attempt
    if attempt.state is not AttemptState.MERGED:  # the run is not finished
        work.end_tasks(attempt.id, TaskState.TRAINING, TaskState.LATE)
        work.end_tasks(attempt.id, TaskState.ACCEPTED, TaskState.UNUSED)
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

    Version 0 and the latest ``keep`` stay.
    """
    rows = work.transaction.versions()
    old = [row for row in rows[1:-keep] if not row.deleted]
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
