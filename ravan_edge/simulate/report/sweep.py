"""The page of a sweep: accuracy on validation over the learning rate, and which one was chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field

from ravan_edge.errors import UsageError
from ravan_edge.simulate.report.figures import rate_figure
from ravan_edge.simulate.report.files import read_json
from ravan_edge.simulate.report.page import templates
from ravan_edge.simulate.report.words import as_percent

__all__ = ["SweepFacts", "SweepRow", "read_sweep", "render_sweep"]

Share = Annotated[float, Field(ge=0, le=1)] | None
Rate = Annotated[float, Field(gt=0)]
_COLORS = ("c1", "c2", "c3", "c4", "c5")


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class SweepRunRow(_File):
    """One run; ``failed`` says why it has no accuracy."""

    seed: int
    folder: str
    validation_accuracy: Share
    accuracy: Share
    failed: str | None = None


class SweepRow(_File):
    """One learning rate over all seeds."""

    lr: Rate
    task_head_lr: Annotated[float, Field(ge=0)] | None
    validation_accuracy: Share
    validation_accuracy_deviation: float | None = None
    accuracy: Share
    accuracy_deviation: float | None = None
    failed: int = 0
    runs: list[SweepRunRow]

    @property
    def group(self) -> str:
        """What one line of the figure shares."""
        if self.task_head_lr is None:
            return "task head at the same rate"
        return f"task head at {self.task_head_lr:g}"


class SweepFacts(_File):
    """sweep.json."""

    rows: list[SweepRow]
    best: SweepRow
    seeds: list[int]
    command: str


@dataclass(frozen=True)
class _View:
    legend: tuple[tuple[str, str], ...]
    svg: Markup
    table: tuple[tuple[str, ...], ...]
    runs: tuple[tuple[str, ...], ...]


def read_sweep(folder: Path) -> SweepFacts:
    """The facts of a sweep.

    Raises:
        UsageError: There is no sweep in ``folder``.
        StorageError: sweep.json is damaged or cannot be read.
    """
    facts = read_json(folder / "sweep.json", SweepFacts)
    if facts is None:
        raise UsageError(
            "there is no sweep.json, so this is no finished sweep",
            where=str(folder),
            hint="point to a folder that `ravan sweep` wrote",
        )
    return facts


def render_sweep(facts: SweepFacts) -> str:
    """The whole document. Equal facts give equal text."""
    return templates().get_template("sweep.html").render(sweep=facts, view=_view(facts))


def _view(facts: SweepFacts) -> _View:
    groups = list(dict.fromkeys(row.group for row in facts.rows))
    # Five lines are as many as one figure can tell apart; the table has all.
    shown = groups[: len(_COLORS)]
    lines = []
    for group in shown:
        rows = sorted((row for row in facts.rows if row.group == group), key=lambda row: row.lr)
        means = [(row.lr, row.validation_accuracy) for row in rows]
        dots = [(row.lr, run.validation_accuracy) for row in rows for run in row.runs]
        lines.append((
            group,
            [(x, y) for x, y in means if y is not None],
            [(x, y) for x, y in dots if y is not None],
        ))  # fmt: skip
    svg = rate_figure("rates", lines, best=(facts.best.lr, facts.best.validation_accuracy))
    legend = [(f"line {color}", group) for group, color in zip(shown, _COLORS, strict=False)]
    if len(facts.seeds) > 1:
        legend.append(("dot c4", "one seed"))
    legend.append(("ring dark", "chosen"))
    return _View(
        legend=tuple(legend),
        svg=svg,
        table=tuple(_row(row, facts.best) for row in facts.rows),
        runs=tuple(
            (
                run.folder,
                str(run.seed),
                as_percent(run.validation_accuracy),
                as_percent(run.accuracy),
                run.failed or "",
            )
            for row in facts.rows
            for run in row.runs
        ),
    )


def _row(row: SweepRow, best: SweepRow) -> tuple[str, ...]:
    notes = ["chosen"] if (row.lr, row.task_head_lr) == (best.lr, best.task_head_lr) else []
    if row.failed:
        notes.append(f"{row.failed} diverged")
    return (
        f"{row.lr:g}",
        "as lr" if row.task_head_lr is None else f"{row.task_head_lr:g}",
        _with_deviation(row.validation_accuracy, row.validation_accuracy_deviation),
        _with_deviation(row.accuracy, row.accuracy_deviation),
        ", ".join(notes),
    )


def _with_deviation(share: float | None, deviation: float | None) -> str:
    if share is None or not deviation or not math.isfinite(deviation):
        return as_percent(share)
    return f"{as_percent(share)} ± {100 * deviation:.1f}"
