"""Messages about what became of attempts and their tasks, for operators (docs/protocol.md, section 7)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ravan_edge.protocol.messages import (
    Count,
    DeviceFailure,
    DeviceId,
    Message,
    Moment,
    PlanName,
    Positive,
    Seconds,
)

__all__ = ["AttemptInfo", "Attempts", "TaskInfo", "Tasks"]


class AttemptInfo(Message):
    """One try to make the next version of the heads."""

    entry: Annotated[Positive, Field(description="Its number, counted over all rounds.")]
    round: Positive
    attempt: Annotated[Positive, Field(description="The how-manieth try of this round.")]
    state: Literal["open", "closed", "merged", "failed"]
    failure: Annotated[
        Literal["deadline", "rollback"] | None, Field(description="What ended a failed one.")
    ] = None
    version: Annotated[Count, Field(description="That its devices start from.")]
    made: Annotated[Count | None, Field(description="The version that came of it.")] = None
    opened_at: Moment
    seconds: Annotated[
        Seconds | None,
        Field(
            description="From its first task, or the server's last start during it, to its end or until now."
        ),
    ] = None
    goal: Positive
    places: Annotated[Positive, Field(description="Tasks that may be out or done.")]
    training: Annotated[Count, Field(description="Tasks that are out.")]
    stored: Annotated[Count, Field(description="Updates that wait for the merge.")]
    merged: Annotated[Count, Field(description="Updates in the version.")]
    late: Annotated[Count, Field(description="Tasks whose update did not come in time.")]
    stale: Annotated[
        Count, Field(description="Tasks that ended since too many versions were made.")
    ]
    unused: Annotated[Count, Field(description="Updates that were stored for nothing.")]
    given_back: Annotated[
        dict[str, Count], Field(description="Tasks that devices gave back, by their reason.")
    ]
    bytes: Annotated[Count, Field(description="Of all its stored updates.")]
    mean_staleness: Annotated[
        float | None,
        Field(ge=0, strict=False, description="Versions behind, of what was merged."),
    ] = None


class Attempts(Message):
    """Attempts in their order."""

    attempts: Annotated[tuple[AttemptInfo, ...], Field(strict=False)]
    after: Annotated[Count | None, Field(description="Where to go on; null: that is all.")] = None


class TaskInfo(Message):
    """What became of one device's task."""

    device: DeviceId
    number: Annotated[int, Field(ge=0, lt=1 << 32, description="The device's number.")]
    plan: PlanName
    version: Annotated[Count, Field(description="That it starts from.")]
    state: Literal["training", "accepted", "merged", "given_back", "late", "stale", "unused"]
    seconds: Annotated[Seconds, Field(description="From the task to its end, or until now.")]
    bytes: Annotated[Positive | None, Field(description="Of its update.")] = None
    examples: Count | None = None
    steps: Count | None = None
    failure: Annotated[
        DeviceFailure | None, Field(description="Why it was given back, in the device's words.")
    ] = None


class Tasks(Message):
    """Tasks of one attempt, in the order in which they were given."""

    tasks: Annotated[tuple[TaskInfo, ...], Field(strict=False)]
    after: Annotated[Count | None, Field(description="Where to go on; null: that is all.")] = None
