"""Synchronous rounds: sample, train, leave late ones out, merge.

A rule is a function ``state -> (state, report)``: everything it must remember between rounds is in the
state, so any rule can be resumed the same way. The others are in ``buffered_rounds.py`` and
``server_rounds.py``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.errors import WorkerError
from ravan_edge.merge import Merged, MergeSettings, merge
from ravan_edge.simulate.clock import DeviceTime
from ravan_edge.simulate.cohort import drop_outs, sample_cohort
from ravan_edge.simulate.messages import DeviceOutcome, UseHeads
from ravan_edge.simulate.metrics import device_outcome, line
from ravan_edge.simulate.prepare import Prepared
from ravan_edge.simulate.state import RunState
from ravan_edge.simulate.workers import WorkerPool

__all__ = [
    "STATUSES",
    "RoundReport",
    "all_bad",
    "check_crashes",
    "finish_round",
    "kept_heads",
    "next_state",
    "round_report",
    "synchronous_round",
]

STATUSES = ("merged", "late", "dropped_out", "bad_numbers", "crashed")


@dataclass(frozen=True)
class RoundReport:
    """What happened in a round.

    Args:
        lines: For metrics.jsonl: one of each device, ascending, then the round's.
        loss: Mean over the merged devices of their mean loss; None when there is none.
        counts: Devices by status.
        seconds: Simulated length of the round.
        failure: Why the run cannot go on, or None.
        staleness: Mean of what was merged; None: rounds are synchronous, or nothing was.
    """

    lines: list[bytes]
    loss: float | None
    counts: dict[str, int]
    seconds: float
    failure: str | None
    staleness: float | None = None


def synchronous_round(
    pool: WorkerPool, prepared: Prepared, state: RunState
) -> tuple[RunState, RoundReport]:
    """The next round: from version ``state.round`` to the one after it.

    The round ends when the last device that is merged has arrived; where a deadline is set and
    somebody is missing, the server waits for it until the deadline.

    Raises:
        WorkerError: The runtime crashed with every device that answered; the round is not counted.
        RavanError: A worker failed.
    """
    settings = prepared.data.settings
    cohort = sample_cohort(
        prepared.eligible, settings.per_round, seed=settings.seed, round=state.round
    )
    lost = drop_outs(cohort, settings.drop_out, seed=settings.seed, round=state.round)
    first = ~state.seen[cohort]
    seen = state.seen.copy()
    seen[cohort] = True
    pool.open(UseHeads(state.round, state.heads))
    outcomes, gathered = pool.train(cohort[~lost].tolist(), first[~lost].tolist())
    check_crashes(state, outcomes)
    if lost.any():
        outcomes += [
            _dropped_out(prepared, state.round + 1, device, new)
            for device, new in zip(cohort[lost].tolist(), first[lost].tolist(), strict=True)
        ]
        outcomes.sort()
    merged = merge(settings.merging, prepared.method, state.heads, gathered, state.moments)
    return finish_round(prepared, state, outcomes, merged, seen)


def kept_heads(settings: MergeSettings, merged: Merged) -> dict[str, Any]:
    """Keys of a round's line that only a merge has which is more than the mean."""
    return {} if settings.is_plain else {"heads_kept": merged.kept}


def check_crashes(state: RunState, outcomes: list[DeviceOutcome]) -> None:
    """A round in which every step crashed is not counted.

    Raises:
        WorkerError: It is one.
    """
    if outcomes and all(each.status == "crashed" for each in outcomes):
        raise WorkerError(
            f"round {state.round + 1}: the step of every device crashed "
            f"(device {outcomes[0].device}: {outcomes[0].error})",
            hint="type the same command again, it goes on from the last finished round",
        )


def finish_round(
    prepared: Prepared,
    state: RunState,
    outcomes: list[DeviceOutcome],
    merged: Merged,
    seen: NDArray[np.bool_],
) -> tuple[RunState, RoundReport]:
    """The state after a round, and what happened in it.

    Args:
        prepared: The run.
        state: Before the round.
        outcomes: Of every sampled device, ascending.
        merged: Of those that are ``merged``.
        seen: Who took part so far, bool [devices].
    """
    report = _report(prepared, state, outcomes, merged)
    return next_state(state, outcomes, merged, seen, report)


def next_state(
    state: RunState,
    outcomes: list[DeviceOutcome],
    merged: Merged,
    seen: NDArray[np.bool_],
    report: RoundReport,
) -> tuple[RunState, RoundReport]:
    """The state after a round, and its report; arguments as for :func:`finish_round`."""
    counts = Counter(state.counts)
    counts.update(report.counts)
    if not report.counts["merged"]:
        counts["rounds_without_merge"] += 1
    counts["heads_kept"] += merged.kept
    return replace(
        state,
        round=state.round + 1,
        heads=merged.heads,
        moments=merged.moments,
        seen=seen,
        simulated_seconds=state.simulated_seconds + report.seconds,
        counts=dict(counts),
        download_bytes=state.download_bytes + sum(each.download_bytes for each in outcomes),
        upload_bytes=state.upload_bytes + sum(each.upload_bytes for each in outcomes),
        failure=report.failure,
    ), report


def _dropped_out(prepared: Prepared, round: int, device: int, first: bool) -> DeviceOutcome:
    data = prepared.data
    download = data.transfer.download(first=first)
    return device_outcome(
        round=round,
        device=device,
        status="dropped_out",
        heads=int(data.heads[device]),
        examples=int(prepared.statistics.rows[device]),
        download_bytes=download,
        time=DeviceTime(download / float(data.clock.download[device]), 0.0, 0.0),
    )


def _report(
    prepared: Prepared, state: RunState, outcomes: list[DeviceOutcome], merged: Merged
) -> RoundReport:
    arrived = [each for each in outcomes if each.status == "merged"]
    deadline = prepared.data.settings.deadline_seconds
    if deadline is not None and len(arrived) < len(outcomes):
        seconds = deadline
    else:
        seconds = max((each.seconds for each in arrived), default=0.0)
    report = round_report(
        state,
        outcomes,
        seconds,
        state.simulated_seconds + seconds,
        more=kept_heads(prepared.data.settings.merging, merged),
    )
    bad = [each for each in outcomes if each.status == "bad_numbers"]
    if bad and len(bad) == len(outcomes) - report.counts["dropped_out"]:
        return replace(report, failure=all_bad(state, bad))
    return report


def all_bad(state: RunState, bad: list[DeviceOutcome]) -> str:
    """Why a run cannot go on of which nobody's numbers are good."""
    return (
        f"round {state.round + 1}: the numbers of every device went bad "
        f"(device {bad[0].device}: {bad[0].error})"
    )


def round_report(
    state: RunState,
    outcomes: list[DeviceOutcome],
    seconds: float,
    clock: float,
    statuses: tuple[str, ...] = STATUSES,
    more: Mapping[str, Any] | None = None,
) -> RoundReport:
    """What happened in a round, without a look at whether it failed.

    Args:
        state: Before the round.
        outcomes: In the order of their lines.
        seconds: Simulated length of the round.
        clock: Simulated seconds at its end.
        statuses: That are counted.
        more: Further keys of the round's line.
    """
    found = Counter(each.status for each in outcomes)
    counts = {status: found[status] for status in statuses}
    losses = [each.loss for each in outcomes if each.status == "merged" and each.loss is not None]
    loss = math.fsum(losses) / len(losses) if losses else None
    values: dict[str, Any] = {
        "round": state.round + 1,
        "sampled": len(outcomes),
        **counts,
        "loss": loss,
        "tokens": sum(each.tokens for each in outcomes),
        "download_bytes": sum(each.download_bytes for each in outcomes),
        "upload_bytes": sum(each.upload_bytes for each in outcomes),
        "seconds": seconds,
        "clock": clock,
        **(more or {}),
    }
    lines = [each.line for each in outcomes]
    lines.append(line("round", values))
    return RoundReport(lines, loss, counts, seconds, None)
