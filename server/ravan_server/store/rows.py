"""What a store keeps, as frozen rows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ravan_edge.merge import PLAIN, Weight

__all__ = [
    "IdentityRow",
    "InvitationRow",
    "RunRow",
    "StoredUpdate",
    "TaskCount",
    "TaskRow",
    "TaskState",
    "VersionRow",
]


class TaskState(StrEnum):
    """What became of a task."""

    TRAINING = "training"
    """It is out."""
    ACCEPTED = "accepted"
    """Its update is stored and acknowledged."""
    MERGED = "merged"
    """Its update is in a version."""
    GIVEN_BACK = "given_back"
    """The device could not do it."""
    LATE = "late"
    """The round ended without it."""
    STALE = "stale"
    """Too many versions were made while it was out."""
    UNUSED = "unused"
    """Its update is stored, but its attempt failed."""


@dataclass(frozen=True)
class RunRow:
    """The run that a state folder holds.

    Attributes:
        artifact: The artifact digest.
        created_at: Seconds since 1970.
    """

    artifact: str
    created_at: float


@dataclass(frozen=True)
class StoredUpdate:
    """Where an acknowledged update lies, and how it counts.

    Attributes:
        sha256: Of the whole file, as it was sent.
        segment: The segment of the update log that holds it.
        offset: Its first byte there.
        bytes: Its length.
        examples: Rows that the device saw.
        steps: Steps it took.
        counted_in: Id of the attempt that merges it.
        count: As how many it counts there.
        factor: What its staleness makes of it, in steps of 2^-32 (docs/artifact.md, section 9).
    """

    sha256: str
    segment: str
    offset: int
    bytes: int
    examples: int
    steps: int
    counted_in: int
    count: int = PLAIN.count
    factor: int = PLAIN.factor

    @property
    def weight(self) -> Weight:
        """Both."""
        found = Weight(self.count, self.factor)
        return PLAIN if found == PLAIN else found  # that one takes the short way


@dataclass(frozen=True)
class TaskRow:
    """One assignment.

    Attributes:
        task: Its id, the key of exactly-once.
        attempt: Id of the attempt that gave it out.
        version: The version it starts from.
        device: The device, as it calls itself.
        number: The device's number.
        plan: The plan it was told to run.
        heads_to_train: Heads of each layer that train; None: all.
        state: What became of it.
        assigned_at: Seconds since 1970.
        deadline_at: Until when it may be out; None: until its attempt ends.
        ended_at: When it left the state ``training``.
        failure: Why the device gave it back.
        update: Where its update lies.
    """

    task: str
    attempt: int
    version: int
    device: str
    number: int
    plan: str
    heads_to_train: int | None
    state: TaskState
    assigned_at: float
    deadline_at: float | None = None
    ended_at: float | None = None
    failure: str | None = None
    update: StoredUpdate | None = None


@dataclass(frozen=True)
class TaskCount:
    """Tasks that are in one state, for one reason.

    Attributes:
        attempt: The one that their updates came to; where they have none, that gave them out.
        state: Of the tasks.
        reason: Why devices gave them back; None: they did not, or for none of the protocol's reasons.
        tasks: How many.
        bytes: Of their updates.
        staleness: How many versions older than the attempt's they started from, all together.
    """

    attempt: int
    state: TaskState
    reason: str | None
    tasks: int
    bytes: int
    staleness: int


@dataclass(frozen=True)
class VersionRow:
    """One version of the heads.

    Attributes:
        version: How many merges are behind it.
        heads: The sha256 of its heads file.
        bytes: Of that file.
        attempt: The attempt that made it; None: the artifact's own heads.
        updates: How many updates were merged.
        made_at: Seconds since 1970.
        copy_of: The older version that an operator went back to; None: it was merged.
        deleted: Whether its heads file is gone, by the retention rule.
        scores: What an evaluation found, as JSON; None: not evaluated.
        heads_kept: Heads (the task head is one of them) that kept their value, since fewer devices trained
            them than the merge needs; None: nothing was merged.
        moments: The sha256 of what the server's optimiser remembers; None: nothing.
    """

    version: int
    heads: str
    bytes: int
    attempt: int | None
    updates: int
    made_at: float
    copy_of: int | None = None
    deleted: bool = False
    scores: str | None = None
    heads_kept: int | None = None
    moments: str | None = None


@dataclass(frozen=True)
class InvitationRow:
    """A token with which devices can enrol.

    Attributes:
        invitation: Its number, from 1.
        token_sha256: Of the token, which is nowhere.
        note: Whom it is for.
        uses: How many devices may use it.
        used: How many did.
        made_at: Seconds since 1970.
        expires_at: Seconds since 1970.
    """

    invitation: int
    token_sha256: str
    note: str
    uses: int
    used: int
    made_at: float
    expires_at: float


@dataclass(frozen=True)
class IdentityRow:
    """An enrolled device.

    Attributes:
        entry: Its number in the order of enrolment, from 1.
        device: Its id, which belongs to its key.
        public_key: ed25519, in hexadecimal.
        invitation: With which it enrolled.
        enrolled_at: Seconds since 1970.
        revoked_at: Since when it is shut out; None: it is not.
    """

    entry: int
    device: str
    public_key: str
    invitation: int
    enrolled_at: float
    revoked_at: float | None = None
