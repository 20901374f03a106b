"""What a run tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ravan_edge.simulate.state import Evaluation

__all__ = ["Notice", "OnEvent", "Resumed", "RoundDone", "Stage"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Something before the first round: ``done`` of ``total`` rows."""

    name: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person should know."""

    text: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """The run goes on after this round; 0: it starts."""

    round: int
    rounds: int


@dataclass(frozen=True, slots=True)
class RoundDone:
    """A round is committed. Round 0 is the evaluation before the first.

    Args:
        round, rounds: Which of how many.
        merged, sampled: Devices.
        loss: Mean training loss of the merged devices.
        scores: Where the round was evaluated, else empty.
        simulated_seconds: The virtual clock.
        seconds: Wall time of the round.
        staleness: Mean of the merged updates; None: rounds are synchronous, or there are none.
    """

    round: int
    rounds: int
    merged: int
    sampled: int
    loss: float | None
    scores: Evaluation
    simulated_seconds: float
    seconds: float
    staleness: float | None = None


OnEvent = Callable[[Notice | Stage | Resumed | RoundDone], None]
