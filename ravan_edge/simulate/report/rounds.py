"""The sections about rounds: bytes, time, and what became of the devices' work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ravan_edge.simulate.report.facts import RoundFacts, RunFacts
from ravan_edge.simulate.report.figures import stacked_bars
from ravan_edge.simulate.report.parts import Legend, Part, Row, number_text, thin
from ravan_edge.simulate.report.svg import Ink
from ravan_edge.simulate.report.words import (
    OUTCOMES,
    as_bytes,
    as_count,
    as_percent,
    as_seconds,
    shown,
)

__all__ = ["RoundSection"]

_COLORS = {
    "merged": (Ink.FIRST, "c1"),
    "dropped_out": (Ink.FOURTH, "c4"),
    "late": (Ink.SECOND, "c2"),
    "stale": (Ink.THIRD, "c3"),
    "bad_numbers": (Ink.BAD, "c5"),
    "crashed": (Ink.BAD, "c5"),
    "no_data": (Ink.THIRD, "c3"),
}


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
        stale = any(r.staleness is not None for r in rounds)
        took_part = sum(any(d.outcomes.values()) for d in run.devices)
        lead = (
            f"{as_bytes(run.sent_bytes)} crossed the network in {as_seconds(run.simulated_seconds)} of "
            "simulated time. Each device fetches the base when it takes part for the first time, "
            "and only heads from then on. "
        )
        if stale:
            lead += (
                "Devices do not wait for each other: a version is made when enough updates have arrived, "
                "each scaled down by its staleness, the versions made since it started."
            )
        else:
            lead += (
                "A round ends with its last update, or at the deadline where one is set and a device "
                "is missing."
            )
        part_lead = (
            f"{as_count(took_part)} of {as_count(len(run.devices))} devices were asked at least "
            f"once, {as_percent(total['merged'] / max(1, asked))} of the work was merged."
        )
        rows = [_round_row(r, stale=stale) for r in rounds]
        thinned = thin(rows)
        every = "" if len(thinned) == len(rows) else f" ({len(thinned)} of {as_count(len(rows))})"
        return cls(
            lead=lead,
            parts=(
                _bytes_part(rounds),
                _time_part(rounds),
                *((_staleness_part(rounds),) if stale else ()),
            ),
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
                "staleness" if stale else "slowest device",
                "merged",
                "not merged",
                "training loss",
            ),
            rows=thinned,
            summary=f"All rounds as a table{every}",
        )


def _round_row(facts: RoundFacts, *, stale: bool) -> Row:
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
        number_text(facts.staleness)
        if stale
        else ("–" if facts.slowest_device is None else str(facts.slowest_device)),
        str(facts.outcomes.get("merged", 0)),
        ", ".join(lost) or "0",
        number_text(facts.train_loss),
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
        title, caption = "Time from version to version", ""
    else:
        title, caption = "Time of the slowest device", "The slowest merged device of each round. "
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
    caption += (
        f"Middle round {as_seconds(times[len(times) // 2])}, longest {as_seconds(times[-1])}."
        + _mean_note(size)
    )
    return Part(title, legend, svg, caption)


def _staleness_part(rounds: Sequence[RoundFacts]) -> Part:
    means = [r.staleness or 0.0 for r in rounds]
    layers = [("staleness", Ink.FIRST, means)]
    svg, size = stacked_bars(
        "staleness", "Staleness by round", [r.round for r in rounds], layers, unit="count"
    )
    legend: Legend = (("c1", "versions made since an update started, mean"),)
    caption = f"At most {number_text(max(means))} in a round." + _mean_note(size)
    return Part("Staleness by round", legend, svg, caption)


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
