r"""The rules of a round, as pure functions on one frozen object.

An **attempt** is one try to make the next version:

    open    --goal updates stored-->  closed  --merged-->  merged
      |  \--deadline, enough of them----^
      \--deadline, too few--> failed         (the next attempt has new tasks; the heads stay)

With ``--mode async`` an attempt is the buffer of the next version: what arrives while it is open is
counted in it, whatever version it started from. It never fails, since nobody waits for anybody: with too
few updates at its deadline it waits on. Tasks have deadlines of their own, and those that are out when a
version is made stay out.

Nothing here knows a clock, a disk or a network: time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from ravan_edge.merge import MergeScale, Weight
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
        training: Tasks that are out; with asynchronous rounds also those of earlier attempts.
        accepted: Updates that are stored for it.
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
    def is_async(self) -> bool:
        """Whether its devices do not wait for each other."""
        return self.settings.rule.is_async

    @property
    def free_places(self) -> int:
        """How many devices may still get a task."""
        if self.state is not AttemptState.OPEN:
            return 0
        taken = self.training if self.is_async else self.training + self.accepted
        return max(0, self.settings.places - taken)

    @property
    def scale(self) -> MergeScale:
        """The fixed-point scale of its merge: no more than make a version are ever added."""
        return self.settings.scale

    def weight(self, examples: int, version: int) -> Weight:
        """How much an update counts in it.

        Args:
            examples: What the update says.
            version: The version that it started from.
        """
        settings = self.settings
        return settings.rule.weight(examples, self.version - version, settings.most_examples)

    def task_deadline(self, now: float) -> float | None:
        """Until when a task may be out that is given now; None: until the attempt ends."""
        return now + self.settings.deadline_seconds if self.is_async else None

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

    def given_back(self, tasks: int = 1) -> Attempt:
        """Tasks that are not out any more, without an update: their places are free again."""
        return replace(self, training=self.training - tasks)

    def withdrawn(self) -> Attempt:
        """A stored update will not be merged: its device was shut out. Its place is free again."""
        return replace(self, accepted=self.accepted - 1)

    def stored(self, now: float) -> Attempt:
        """One more update is stored; when they make a version, the attempt is closed."""
        attempt = replace(self, training=self.training - 1, accepted=self.accepted + 1)
        if attempt.accepted >= self.settings.updates:
            return replace(attempt, state=AttemptState.CLOSED, ended_at=now)
        return attempt

    def at(self, now: float) -> Attempt:
        """The same attempt at a later moment: a deadline that has passed ends it.

        An asynchronous one goes on until there are enough updates.
        """
        if self.state is not AttemptState.OPEN or self.deadline_at is None:
            return self
        if now < self.deadline_at:
            return self
        enough = self.accepted >= self.settings.enough
        if self.is_async and not enough:
            return self
        state = AttemptState.CLOSED if enough else AttemptState.FAILED
        return replace(self, state=state, ended_at=now)

    def merged(self) -> Attempt:
        """Its updates are in the next version; no task is out for it any more."""
        return replace(self, state=AttemptState.MERGED, training=0)

    def resumed(self, now: float) -> Attempt:
        """After a restart: devices that waited for the server get the whole time again."""
        if self.state is not AttemptState.OPEN or self.deadline_at is None:
            return self
        return replace(self, deadline_at=now + self.settings.deadline_seconds)

    def abandoned(self, now: float) -> Attempt:
        """An operator went back to other heads: what devices train from these is not wanted."""
        return replace(self, state=AttemptState.FAILED, ended_at=now)

    def keeps_tasks(self, settings: RoundSettings) -> bool:
        """Whether tasks that are out when it is merged stay out, with ``settings`` from then on."""
        return self.is_async and settings.rule.is_async

    def following(
        self, version: int, settings: RoundSettings, seed: int, now: float, training: int = 0
    ) -> Attempt:
        """The attempt after this one, which is merged or failed.

        Args:
            version: It starts from this one.
            settings: Its settings.
            seed: Its seed.
            now: Seconds since 1970.
            training: Tasks that stay out.
        """
        merged = self.state is AttemptState.MERGED
        round_, number = (self.round + 1, 1) if merged else (self.round, self.number + 1)
        found = Attempt(
            self.id + 1, round_, number, version, AttemptState.OPEN, settings, seed, now
        )
        if not training:
            return found
        return replace(found, training=training, deadline_at=now + settings.deadline_seconds)
