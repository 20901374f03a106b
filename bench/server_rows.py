"""Figures of the aggregator's benchmark, each against its target."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Row", "at_least", "at_most"]


@dataclass(frozen=True)
class Row:
    """One figure against its target.

    Attributes:
        name: What was measured.
        figure: Median of the repeats.
        target: At least or at most this much.
        met: Whether it is.
        repeats: Every repeat.
        conditions: How it was measured.
        digits: Behind the point, when printed.
    """

    name: str
    figure: float
    target: str
    met: bool
    repeats: list[float]
    conditions: str
    digits: int = 0

    def __str__(self) -> str:
        spread = f"{min(self.repeats):,.{self.digits}f} to {max(self.repeats):,.{self.digits}f}"
        verdict = "met" if self.met else "MISSED"
        return (
            f"{self.name:<44} {self.figure:>9,.{self.digits}f}   {self.target:<10} {verdict:<7}"
            f"{spread} ({len(self.repeats)})   {self.conditions}"
        )


def at_least(name: str, found: Sequence[float], target: float, how: str, digits: int = 0) -> Row:
    figure = statistics.median(found)
    return Row(name, figure, f">= {target:,.{digits}f}", figure >= target, [*found], how, digits)


def at_most(name: str, found: Sequence[float], target: float, how: str, digits: int = 0) -> Row:
    figure = statistics.median(found)
    return Row(name, figure, f"<= {target:,.{digits}f}", figure <= target, [*found], how, digits)
