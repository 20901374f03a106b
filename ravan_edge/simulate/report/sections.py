"""The sections of a run's page: its facts turned into figures, sentences and tables.

Everything a figure shows stands in a table too, for those who do not see figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ravan_edge.simulate.report.facts import (
    ClassFacts,
    DeviceFacts,
    Evaluation,
    RunFacts,
    Score,
)
from ravan_edge.simulate.report.figures import curves, heatmap
from ravan_edge.simulate.report.parts import Legend, Part, Row, cut, number_text, thin
from ravan_edge.simulate.report.words import (
    as_bytes,
    as_count,
    as_percent,
    as_seconds,
    shown,
)

__all__ = ["ClassSection", "DataSection", "Learning"]

_WORST = 15


@dataclass(frozen=True)
class Panel:
    """Accuracy and loss over one axis."""

    axis: str
    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Learning:
    """Accuracy and loss by round, by bytes sent, by simulated time."""

    lead: str
    panels: tuple[Panel, ...]
    columns: Row
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, run: RunFacts) -> Learning | None:
        """The section; None where nothing was evaluated."""
        seen = [e for e in run.evaluations if e.test or e.validation]
        if not seen:
            return None
        best = next((e for e in seen if e.round == run.best_round), None)
        lead = "Rows that no device trained on. "
        if any(e.validation for e in seen):
            lead += "The validation split is cut from the training file and is all that chooses. "
        if best:
            lead += f"The ring marks the round with the best validation score, round {best.round}."
        axes = (
            ("round", "By round", "round", "count"),
            ("bytes", "By bytes sent", "sent by and to all devices", "bytes"),
            ("time", "By simulated time", "simulated time", "seconds"),
        )
        panels = tuple(
            Panel(axis, title, _curve_parts(axis, label, unit, seen, best))
            for axis, title, label, unit in axes
        )
        rows = [
            (
                str(e.round),
                *(as_percent(s.accuracy) if s else "–" for s in (e.test, e.validation)),
                *(number_text(s.loss) if s else "–" for s in (e.test, e.validation)),
                as_bytes(e.sent_bytes),
                as_seconds(e.seconds),
            )
            for e in seen
        ]
        columns = (
            "after round", "test accuracy", "validation accuracy", "test loss", "validation loss",
            "bytes sent", "simulated time",
        )  # fmt: skip
        return cls(lead, panels, columns, thin(rows))


def _curve_parts(
    axis: str, label: str, unit: str, seen: Sequence[Evaluation], best: Evaluation | None
) -> tuple[Part, ...]:
    def place(evaluation: Evaluation) -> float:
        if axis == "round":
            return evaluation.round
        return evaluation.sent_bytes if axis == "bytes" else evaluation.seconds

    parts = []
    for quantity, y_unit in (("accuracy", "percent"), ("loss", "number")):
        lines = []
        legend: list[tuple[str, str]] = []
        for name, swatch in (("test", "line c1"), ("validation", "line dash c2")):
            points = [
                (place(e), value)
                for e in seen
                if (score := _score(e, name)) and (value := getattr(score, quantity)) is not None
            ]
            if points:
                lines.append((name, [x for x, _ in points], [y for _, y in points]))
                legend.append((swatch, name))
        if not lines:
            continue
        mark = (place(best), f"best: round {best.round}") if best else None
        svg = curves(
            f"{quantity}-{axis}", f"{quantity.capitalize()} by {label}", lines,
            x_label=label, x_unit=unit, y_unit=y_unit, mark=mark,
        )  # fmt: skip
        if best:
            legend.append(("ring", "best round"))
        parts.append(Part(quantity.capitalize(), tuple(legend), svg))
    return tuple(parts)


def _score(evaluation: Evaluation, name: str) -> Score | None:
    return evaluation.test if name == "test" else evaluation.validation


@dataclass(frozen=True)
class ClassRow:
    """One class, with the lengths of its bar in percent."""

    label: str
    rows: int
    before: float | None
    after: float | None

    @property
    def after_share(self) -> str:
        """Width of the bar."""
        return f"{100 * (self.after or 0):.1f}"

    @property
    def before_share(self) -> str:
        """Place of the tick, kept inside the bar."""
        return f"{min(99.0, max(0.6, 100 * (self.before or 0))):.1f}"


@dataclass(frozen=True)
class ClassSection:
    """Per-class accuracy, worst first."""

    lead: str
    legend: Legend
    worst: tuple[ClassRow, ...]
    columns: Row
    rows: tuple[Row, ...]
    summary: str

    @classmethod
    def of(cls, run: RunFacts) -> ClassSection | None:
        """The section; None where classes were not scored."""
        known = [c for c in run.classes if c.after is not None and c.rows]
        if not known:
            return None
        ranked = sorted(known, key=lambda c: (c.after or 0, -c.rows, c.label))
        perfect = sum(c.after == 1 for c in known)
        never = sum(c.after == 0 for c in known)
        half = sum((c.after or 0) >= 0.5 for c in known)
        lead = f"{half} of {len(known)} classes are right at least every second time"
        lead += f", {perfect} always" if perfect else ""
        lead += f"; {never} never" if never else ""
        lead += ". Here are the worst." if len(known) > _WORST else "."
        has_before = any(c.before is not None for c in known)
        legend: Legend = (("c1", "accuracy after the last round"),)
        legend += (("tick", "before"),) if has_before else ()
        rows, rest = cut([_class_row(c) for c in ranked])
        return cls(
            lead=lead,
            legend=legend,
            worst=tuple(ClassRow(c.label, c.rows, c.before, c.after) for c in ranked[:_WORST]),
            columns=("class", "test rows", "before", "after", "change"),
            rows=rows,
            summary=f"All {as_count(len(known))} classes as a table{rest}",
        )


def _class_row(c: ClassFacts) -> Row:
    change = "–"
    if c.before is not None and c.after is not None:
        change = f"{100 * (c.after - c.before):+.1f}"
    return (shown(c.label), as_count(c.rows), as_percent(c.before), as_percent(c.after), change)


@dataclass(frozen=True)
class DataSection:
    """Which rows lie where."""

    lead: str
    heatmap: Markup
    caption: str
    columns: Row
    rows: tuple[Row, ...]
    summary: str

    @classmethod
    def of(cls, run: RunFacts) -> DataSection | None:
        """The section; None where the partition is not known."""
        devices = sorted(run.devices, key=lambda d: (-d.rows, d.device))
        if not devices:
            return None
        sizes = sorted(d.rows for d in devices)
        empty = sum(size == 0 for size in sizes)
        lead = (
            f"{as_count(sum(sizes))} training rows, divided by {shown(run.partition)}. The middle "
            f"device has {as_count(sizes[len(sizes) // 2])} rows, the smallest {as_count(sizes[0])}"
            f", the largest {as_count(sizes[-1])}."
        )
        if empty:
            lead += f" {as_count(empty)} without data {'is' if empty == 1 else 'are'} never asked."
        image, drawn = heatmap(
            "partition",
            "Rows of each class on each device",
            [d.classes for d in devices if d.classes],
            [d.rows for d in devices],
        )
        caption = (
            "Each line is a device, most rows on top, each column a class. The stronger the "
            "colour, the more rows."
        )
        if not run.labels:
            caption = "Each bar is a device."
        elif not devices[0].classes:
            caption = "Each bar is a device. There are too many classes and devices to show both."
        if drawn < len(devices):
            caption += f" {drawn} of {as_count(len(devices))} devices, evenly chosen."
        budgets = any(d.heads is not None for d in devices)
        rows, rest = cut([_device_row(d, run.labels, budgets) for d in devices])
        return cls(
            lead=lead,
            heatmap=image,
            caption=caption,
            columns=(
                "device",
                "rows",
                "classes",
                *(("heads",) if budgets else ()),
                "asked",
                "merged",
                "mean time",
                "most rows of",
            ),
            rows=rows,
            summary=f"All devices as a table{rest}",
        )


def _device_row(device: DeviceFacts, labels: Sequence[str], budgets: bool) -> Row:
    most = sorted(range(len(device.classes)), key=lambda c: (-device.classes[c], c))[:2]
    names = ", ".join(
        f"{shown(labels[c])} ({device.classes[c]})" for c in most if device.classes[c]
    )
    return (
        shown(device.name),
        as_count(device.rows),
        as_count(device.class_count),
        *((as_count(device.heads),) if budgets else ()),
        str(sum(device.outcomes.values())),
        str(device.outcomes.get("merged", 0)),
        as_seconds(device.seconds),
        names or "–",
    )
