"""The same simulation over learning rates and seeds; validation chooses.

One run varies by its seed and one round by its cohort, so a rate is judged by the mean over seeds
of the validation accuracy, itself a mean over the last evaluated rounds of a run.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ravan_edge.errors import NumericsError, UsageError
from ravan_edge.files import storage_errors, write_atomic
from ravan_edge.folder_lock import FolderLock
from ravan_edge.simulate.engine import simulate
from ravan_edge.simulate.events import Notice, OnEvent, Resumed, RoundDone, Stage
from ravan_edge.simulate.request import SimulationRequest
from ravan_edge.simulate.run_folder import RUN_NAME, json_bytes

__all__ = ["SweepRun", "sweep"]

SWEEP_NAME = "sweep.json"
_MOST_RUNS = 10_000


@dataclass(frozen=True, slots=True)
class SweepRun:
    """A run of a sweep begins: ``number`` of ``total``, from 1."""

    number: int
    total: int
    name: str


OnSweepEvent = Callable[[SweepRun | Notice | Stage | Resumed | RoundDone], None]


@dataclass(frozen=True)
class _Point:
    """One place of the grid: what all its seeds share."""

    lr: float
    task_head_lr: float | None

    def name(self, seed: int) -> str:
        head = "" if self.task_head_lr is None else f"_task-head-lr-{self.task_head_lr:g}"
        return f"lr-{self.lr:g}{head}_seed-{seed}"

    def request(self, base: SimulationRequest, seed: int) -> SimulationRequest:
        local = replace(base.settings.local, lr=self.lr, task_head_lr=self.task_head_lr)
        return replace(
            base,
            out=base.out / self.name(seed),
            settings=replace(base.settings, local=local, seed=seed),
        )


def _silent(_: object) -> None:
    """For sweeps nobody watches."""


def sweep(
    base: SimulationRequest,
    rates: Sequence[float],
    *,
    task_head_rates: Sequence[float] = (),
    seeds: Sequence[int] = (),
    workers: int | None = None,
    on_event: OnSweepEvent = _silent,
) -> dict[str, Any]:
    """Run every combination in a folder of its own below ``base.out``, and choose.

    Runs that are finished are not repeated and an interrupted one goes on, so the same call resumes
    the sweep; a call with further rates or seeds extends it.

    Args:
        base: What all runs share; its ``out`` is the sweep's folder.
        rates: Learning rates.
        task_head_rates: Learning rates of the task head; none: the base's own.
        seeds: None: the base's own.
        workers: As of :func:`~ravan_edge.simulate.simulate`.
        on_event: Told what happens.

    Returns:
        The content of sweep.json: ``rows`` in the order of the grid and ``best``, one of them.

    Raises:
        UsageError: Nothing to choose from or with, or a rate out of range.
        NumericsError: Every rate diverged.
        RavanError: What a run raises.
    """
    points, all_seeds = _grid(base, rates, task_head_rates, seeds)
    requests = [[point.request(base, seed) for seed in all_seeds] for point in points]
    with storage_errors(base.out, "make the sweep's folder"):
        base.out.mkdir(parents=True, exist_ok=True)
    total = len(points) * len(all_seeds)
    rows = []
    with FolderLock(base.out):
        number = 0
        for point, runs in zip(points, requests, strict=True):
            results = []
            for request in runs:
                number += 1
                on_event(SweepRun(number, total, request.out.name))
                results.append(_result(request, workers, on_event))
            rows.append(_row(point, results))
        chosen = [row for row in rows if row["validation_accuracy"] is not None]
        if not chosen and not all(row["failed"] for row in rows):
            raise UsageError(
                "too few training rows for a validation split",
                where="--validation",
                hint="use a larger share, or more data",
            )
        if not chosen:
            raise NumericsError(
                "every learning rate diverged", where=str(base.out), hint="try lower ones"
            )
        best = max(chosen, key=lambda row: (row["validation_accuracy"], -row["lr"]))
        document = {
            "rows": rows,
            "best": best,
            "seeds": list(all_seeds),
            "command": _command(base, best),
        }
        write_atomic(base.out / SWEEP_NAME, [json_bytes(document)])
    return document


def _grid(
    base: SimulationRequest,
    rates: Sequence[float],
    task_head_rates: Sequence[float],
    seeds: Sequence[int],
) -> tuple[list[_Point], tuple[int, ...]]:
    if not rates:
        raise UsageError("no learning rate", where="--lr", hint="write --lr 1e-4,5e-4,1e-3")
    settings = base.settings
    if not settings.validation or not settings.evaluate_every:
        raise UsageError(
            "a sweep chooses by validation, which is switched off",
            where="--validation" if not settings.validation else "--evaluate-every",
            hint="use --validation 0.1 and --evaluate-every 1",
        )
    if (base.out / RUN_NAME).exists():
        raise UsageError(
            "the folder holds a run", where=str(base.out), hint="name another folder with --out"
        )
    heads: Sequence[float | None] = task_head_rates or [settings.local.task_head_lr]
    points = [_Point(lr, head) for lr in dict.fromkeys(rates) for head in dict.fromkeys(heads)]
    all_seeds = tuple(dict.fromkeys(seeds)) or (settings.seed,)
    if len(points) * len(all_seeds) > _MOST_RUNS:
        raise UsageError(
            f"{len(points) * len(all_seeds)} runs, expected at most {_MOST_RUNS}",
            where="--lr",
            hint="sweep in several steps",
        )
    for point in points:  # a rate out of range is refused before the first run, not in the tenth
        point.request(base, all_seeds[0])
    return points, all_seeds


def _result(request: SimulationRequest, workers: int | None, on_event: OnEvent) -> dict[str, Any]:
    """What a run says, or why it failed."""
    seed = request.settings.seed
    values: dict[str, Any] = {"seed": seed, "folder": request.out.name}
    try:
        summary = simulate(request, workers=workers, on_event=on_event)
    except NumericsError as error:
        return {**values, "validation_accuracy": None, "accuracy": None, "failed": error.message}
    return {
        **values,
        "validation_accuracy": summary["recent"]["validation_accuracy"],
        "accuracy": summary["recent"]["accuracy"],
        "final_accuracy": summary["final"]["accuracy"],
        "best_round": summary["best"] and summary["best"]["round"],
        "simulated_seconds": summary["simulated_seconds"],
        "failed": None,
    }


def _row(point: _Point, results: list[dict[str, Any]]) -> dict[str, Any]:
    failed = sum(result["failed"] is not None for result in results)
    return {
        "lr": point.lr,
        "task_head_lr": point.task_head_lr,
        **_mean(results, "validation_accuracy"),
        **_mean(results, "accuracy"),
        "failed": failed,
        "runs": results,
    }


def _mean(results: list[dict[str, Any]], key: str) -> dict[str, float | None]:
    """Mean and standard deviation over the seeds; a rate that diverges with one seed has none."""
    found = [result[key] for result in results]
    if any(value is None for value in found):
        return {key: None, f"{key}_deviation": None}
    return {
        key: math.fsum(found) / len(found),
        f"{key}_deviation": statistics.stdev(found) if len(found) > 1 else 0.0,
    }


def _command(base: SimulationRequest, best: dict[str, Any]) -> str:
    """The run to go on with: the chosen rate, in a folder beside the sweep's."""
    local = replace(base.settings.local, lr=best["lr"], task_head_lr=best["task_head_lr"])
    out = Path(f"{base.out}-best")
    return replace(base, out=out, settings=replace(base.settings, local=local)).command()
