r"""The rules of a synchronous round, as pure functions on one frozen object.

An **attempt** is one try to make the next version:

    open    --goal updates stored-->  closed  --merged-->  merged
      |  \--deadline, enough of them----^
      \--deadline, too few--> failed         (the next attempt has new tasks; the heads stay)

Nothing here knows a clock, a disk or a network: time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from ravan_edge.merge import MergeScale
from ravan_server.settings import RoundSettings

__all__ = ["Attempt", "AttemptState"]


class AttemptState(StrEnum):
    """Where an attempt stands."""

    OPEN = "open"
    CLOSED = "closed"
    MERGED = "merged"
    FAILED = "failed"


@dataclass(frozen=True)
class Attempt:
    """One try to make the next version of the heads.

    Attributes:
        id: Its number, counted over all rounds.
        round: The merge it tries to make, from 1.
        number: The how-manieth try of this round, from 1.
        version: The version its devices start from.
        state: Where it stands.
        settings: How it runs; never changed once it is open.
        seed: Addresses the random numbers of its devices.
        opened_at: Seconds since 1970.
        deadline_at: The same; None until the first task is out.
        ended_at: When it was closed or failed.
        training: Tasks that are out.
        accepted: Updates that are stored.
    """

    id: int
    round: int
    number: int
    version: int
    state: AttemptState
    settings: RoundSettings
    seed: int
    opened_at: float
    deadline_at: float | None = None
    ended_at: float | None = None
    training: int = 0
    accepted: int = 0

    @classmethod
    def first(cls, settings: RoundSettings, seed: int, now: float) -> Attempt:
        """The first attempt of a run."""
        return cls(1, 1, 1, 0, AttemptState.OPEN, settings, seed, now)

    @property
    def free_places(self) -> int:
        """How many devices may still get a task."""
        if self.state is not AttemptState.OPEN:
            return 0
        return max(0, self.settings.places - self.training - self.accepted)

    @property
    def scale(self) -> MergeScale:
        """The fixed-point scale of its merge: no more than the goal are ever added."""
        return MergeScale.for_cohort(self.settings.goal)

    def remaining_seconds(self, now: float) -> float:
        """Until the deadline; all of the time while no task is out."""
        if self.deadline_at is None:
            return self.settings.deadline_seconds
        return max(0.0, self.deadline_at - now)

    def running_seconds(self, now: float) -> float:
        """Since the first task went out."""
        if self.deadline_at is None:
            return 0.0
        return max(0.0, now - self.deadline_at + self.settings.deadline_seconds)

    def assigned(self, now: float) -> Attempt:
        """One more task is out. The deadline counts from the first: nobody has to wait for nobody."""
        deadline = self.deadline_at
        if deadline is None:
            deadline = now + self.settings.deadline_seconds
        return replace(self, training=self.training + 1, deadline_at=deadline)

    def given_back(self) -> Attempt:
        """A device cannot do its task: its place is free again."""
        return replace(self, training=self.training - 1)

    def withdrawn(self) -> Attempt:
        """A stored update will not be merged: its device was shut out. Its place is free again."""
        return replace(self, accepted=self.accepted - 1)

    def stored(self, now: float) -> Attempt:
        """One more update is stored; the goal closes the attempt."""
        attempt = replace(self, training=self.training - 1, accepted=self.accepted + 1)
        if attempt.accepted >= self.settings.goal:
            return replace(attempt, state=AttemptState.CLOSED, ended_at=now)
        return attempt

    def at(self, now: float) -> Attempt:
        """The same attempt at a later moment: a deadline that has passed ends it."""
        if self.state is not AttemptState.OPEN or self.deadline_at is None:
            return self
        if now < self.deadline_at:
            return self
        enough = self.accepted >= self.settings.enough
        state = AttemptState.CLOSED if enough else AttemptState.FAILED
        return replace(self, state=state, ended_at=now)

    def merged(self) -> Attempt:
        """Its updates are in the next version."""
        return replace(self, state=AttemptState.MERGED)

    def resumed(self, now: float) -> Attempt:
        """After a restart: devices that waited for the server get the whole time again."""
        if self.state is not AttemptState.OPEN or self.deadline_at is None:
            return self
        return replace(self, deadline_at=now + self.settings.deadline_seconds)

    def abandoned(self, now: float) -> Attempt:
        """An operator went back to other heads: what devices train from these is not wanted."""
        return replace(self, state=AttemptState.FAILED, ended_at=now)

    def following(self, version: int, settings: RoundSettings, seed: int, now: float) -> Attempt:
        """The attempt after this one, which is merged or failed; it starts from ``version``."""
        merged = self.state is AttemptState.MERGED
        round_, number = (self.round + 1, 1) if merged else (self.round, self.number + 1)
        return Attempt(self.id + 1, round_, number, version, AttemptState.OPEN, settings, seed, now)
