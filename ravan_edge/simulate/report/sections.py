"""The sections of a run's page: its facts turned into figures, sentences and tables.

Everything a figure shows stands in a table too, for those who do not see figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ravan_edge.simulate.report.facts import (
    ClassFacts,
    DeviceFacts,
    Evaluation,
    RoundFacts,
    RunFacts,
    Score,
)
from ravan_edge.simulate.report.figures import curves, heatmap, stacked_bars
from ravan_edge.simulate.report.svg import Ink
from ravan_edge.simulate.report.words import (
    OUTCOMES,
    as_bytes,
    as_count,
    as_percent,
    as_seconds,
    shown,
)

__all__ = ["ClassSection", "DataSection", "Learning", "Part", "RoundSection"]

Legend = tuple[tuple[str, str], ...]
Row = tuple[str, ...]

_WORST = 15
_MOST_ROWS = 500
_COLORS = {
    "merged": (Ink.FIRST, "c1"),
    "dropped_out": (Ink.FOURTH, "c4"),
    "late": (Ink.SECOND, "c2"),
    "bad_numbers": (Ink.BAD, "c5"),
    "no_data": (Ink.THIRD, "c3"),
}


@dataclass(frozen=True)
class Part:
    """A figure with its heading, legend and caption."""

    title: str
    legend: Legend
    svg: Markup
    caption: str = ""


@dataclass(frozen=True)
class Panel:
    """Accuracy and loss over one axis."""

    axis: str
    title: str
    parts: tuple[Part, ...]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _cut(rows: Sequence[Row]) -> tuple[tuple[Row, ...], str]:
    """At most as many rows as a page should carry, and what to say about the rest."""
    if len(rows) <= _MOST_ROWS:
        return tuple(rows), ""
    return tuple(rows[:_MOST_ROWS]), f" (the first {_MOST_ROWS} of {as_count(len(rows))})"


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
                *(_number(s.loss) if s else "–" for s in (e.test, e.validation)),
                as_bytes(e.sent_bytes),
                as_seconds(e.seconds),
            )
            for e in seen
        ]
        columns = (
            "after round", "test accuracy", "validation accuracy", "test loss", "validation loss",
            "bytes sent", "simulated time",
        )  # fmt: skip
        return cls(lead, panels, columns, _thin(rows))


def _thin(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Evenly chosen rows, the last one always among them."""
    step = -(-len(rows) // _MOST_ROWS)
    return tuple(rows[(len(rows) - 1) % step :: step])


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
        rows, rest = _cut([_class_row(c) for c in ranked])
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
        if not devices[0].classes:
            caption = "Each bar is a device. There are too many classes and devices to show both."
        if drawn < len(devices):
            caption += f" {drawn} of {as_count(len(devices))} devices, evenly chosen."
        budgets = any(d.heads is not None for d in devices)
        rows, rest = _cut([_device_row(d, run.labels, budgets) for d in devices])
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


@dataclass(frozen=True)
class RoundSection:
    """Bytes, time and participation."""

    lead: str
    parts: tuple[Part, ...]
    part_lead: str
    participation: Part
    outcomes: tuple[tuple[str, str, int, float], ...]
    columns: Row
    rows: tuple[Row, ...]
    summary: str

    @classmethod
    def of(cls, run: RunFacts) -> RoundSection | None:
        """The section; None before the first round."""
        rounds = run.rounds
        if not rounds:
            return None
        total = sum((Counter(r.outcomes) for r in rounds), Counter[str]())
        asked = sum(total.values())
        known = [name for name in OUTCOMES if total[name]]
        known += sorted(name for name in total if total[name] and name not in OUTCOMES)
        took_part = sum(any(d.outcomes.values()) for d in run.devices)
        lead = (
            f"{as_bytes(run.sent_bytes)} crossed the network in {as_seconds(run.simulated_seconds)} of "
            "simulated time. Each device fetches the base when it takes part for the first time, "
            "and only heads from then on. A round ends with its last update, or at "
            "the deadline where one is set and a device is missing."
        )
        part_lead = (
            f"{as_count(took_part)} of {as_count(len(run.devices))} devices were asked at least "
            f"once, {as_percent(total['merged'] / max(1, asked))} of the work was merged."
        )
        rows = [_round_row(r) for r in rounds]
        thinned = _thin(rows)
        every = "" if len(thinned) == len(rows) else f" ({len(thinned)} of {as_count(len(rows))})"
        return cls(
            lead=lead,
            parts=(_bytes_part(rounds), _time_part(rounds)),
            part_lead=part_lead,
            participation=_participation(rounds, known),
            outcomes=tuple(
                (*OUTCOMES.get(name, (shown(name), "")), total[name], total[name] / max(1, asked))
                for name in known
            ),
            columns=(
                "round",
                "download",
                "upload",
                "time",
                "slowest device",
                "merged",
                "not merged",
                "training loss",
            ),
            rows=thinned,
            summary=f"All rounds as a table{every}",
        )


def _round_row(facts: RoundFacts) -> Row:
    lost = [
        f"{times} {OUTCOMES.get(name, (shown(name),))[0]}"
        for name, times in facts.outcomes.items()
        if times and name != "merged"
    ]
    return (
        str(facts.round),
        as_bytes(facts.download_bytes),
        as_bytes(facts.upload_bytes),
        as_seconds(facts.seconds),
        "–" if facts.slowest_device is None else str(facts.slowest_device),
        str(facts.outcomes.get("merged", 0)),
        ", ".join(lost) or "0",
        _number(facts.train_loss),
    )


def _mean_note(size: int) -> str:
    return f" Each bar is the mean of {size} rounds." if size > 1 else ""


def _bytes_part(rounds: Sequence[RoundFacts]) -> Part:
    layers = [
        ("download", Ink.FIRST, [float(r.download_bytes) for r in rounds]),
        ("upload", Ink.SECOND, [float(r.upload_bytes) for r in rounds]),
    ]
    svg, size = stacked_bars(
        "bytes", "Bytes by round", [r.round for r in rounds], layers, unit="bytes"
    )
    legend: Legend = (("c1", "download, all devices"), ("c2", "upload, all devices"))
    caption = (
        f"{as_bytes(sum(layers[0][2]))} down and {as_bytes(sum(layers[1][2]))} up in all."
        + _mean_note(size)
    )
    return Part("Bytes by round", legend, svg, caption)


def _time_part(rounds: Sequence[RoundFacts]) -> Part:
    names = [r.round for r in rounds]
    if all(r.slowest is None for r in rounds):
        layers = [("time", Ink.FIRST, [r.seconds for r in rounds])]
        legend: Legend = (("c1", "simulated time"),)
    else:
        slowest = [r.slowest or (0.0, 0.0, 0.0) for r in rounds]
        layers = [
            ("download", Ink.FIRST, [s[0] for s in slowest]),
            ("training", Ink.THIRD, [s[1] for s in slowest]),
            ("upload", Ink.SECOND, [s[2] for s in slowest]),
        ]
        legend = (("c1", "download"), ("c3", "training"), ("c2", "upload"))
        waiting = [max(0.0, r.seconds - sum(s)) for r, s in zip(rounds, slowest, strict=True)]
        if sum(waiting) > 1e-6 * sum(r.seconds for r in rounds):
            layers.append(("waiting", Ink.FOURTH, waiting))
            legend += (("c4", "waiting for the deadline"),)
    svg, size = stacked_bars("time", "Simulated time by round", names, layers, unit="seconds")
    times = sorted(r.seconds for r in rounds)
    caption = (
        f"The slowest merged device of each round. Middle round {as_seconds(times[len(times) // 2])}, "
        f"longest {as_seconds(times[-1])}." + _mean_note(size)
    )
    return Part("Time of the slowest device", legend, svg, caption)


def _participation(rounds: Sequence[RoundFacts], known: Sequence[str]) -> Part:
    layers = [
        (
            OUTCOMES.get(name, (name,))[0],
            _COLORS.get(name, (Ink.THIRD, "c3"))[0],
            [float(r.outcomes.get(name, 0)) for r in rounds],
        )
        for name in known
    ]
    svg, size = stacked_bars(
        "participation", "Devices by round", [r.round for r in rounds], layers, unit="count"
    )
    legend = tuple(
        (_COLORS.get(name, (Ink.THIRD, "c3"))[1], OUTCOMES.get(name, (shown(name),))[0])
        for name in known
    )
    return Part("Devices by round", legend, svg, _mean_note(size))
