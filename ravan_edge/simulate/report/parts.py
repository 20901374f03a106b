"""What sections are made of: a figure with its legend, and tables that do not grow for ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ravan_edge.simulate.report.words import as_count

__all__ = ["Legend", "Part", "Row", "cut", "number_text", "thin"]

Legend = tuple[tuple[str, str], ...]
Row = tuple[str, ...]

_MOST_ROWS = 500


@dataclass(frozen=True)
class Part:
    """A figure with its heading, legend and caption."""

    title: str
    legend: Legend
    svg: Markup
    caption: str = ""


def number_text(value: float | None) -> str:
    """A loss with three digits behind the point."""
    return "–" if value is None else f"{value:.3f}"


def cut(rows: Sequence[Row]) -> tuple[tuple[Row, ...], str]:
    """At most as many rows as a page should carry, and what to say about the rest."""
    if len(rows) <= _MOST_ROWS:
        return tuple(rows), ""
    return tuple(rows[:_MOST_ROWS]), f" (the first {_MOST_ROWS} of {as_count(len(rows))})"


def thin(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Evenly chosen rows, the last one always among them."""
    step = -(-len(rows) // _MOST_ROWS)
    return tuple(rows[(len(rows) - 1) % step :: step])
