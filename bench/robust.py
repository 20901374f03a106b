"""The robust rules against byzfl's, at byzfl's own parameters.

    python -m bench.robust [--json] [--quick] [--repeats N] [--rules median,krum]

100 differences of 1 M numbers, normally distributed, 10 of them 20 times as large. ``kit`` reads them from a
memory-mapped file of rows, as a merge does; ``byzfl`` has them as one float32 array in memory. The
file is in the page cache. Each side is a process of its own, which may use all processors; they take
turns, and the first call of each, in which its memory is sampled from outside (anonymous, above the process
before it), is not timed. byzfl's array is not counted: it is there before. Results are compared: they
agree within 1e-6.

``geometric-median, converged`` is what `--merge geometric-median` does: until it stands still, where byzfl
does three steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.merging_process import MergingProcess
from ravan_edge.memory import PeakSampler
from ravan_edge.merge import MergeScale
from ravan_edge.merge.robust import (
    Rows,
    coordinate_median,
    geometric_median,
    krum,
    multi_krum,
    trimmed_mean,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # what finds byzfl belongs to the tests

TARGET_RATIO = 0.5
AGREE = 1e-6
SIDES = ("kit", "byzfl")
RULES = ("median", "trimmed-mean", "krum", "multi-krum", "geometric-median")
CONVERGED = "geometric-median, converged"

Merge = Callable[[], NDArray[Any]]


def write_rows(path: Path, devices: int, numbers: int) -> None:
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        for number in range(devices):
            size = 0.2 if number % 10 == 0 else 0.01
            file.write(generator.normal(0, size, numbers).astype("<f4").tobytes())


def kit_merges(rows: Rows) -> dict[str, Merge]:
    """At byzfl's parameters: n - f - 1 neighbours, three steps with nu 0.1."""
    devices, f = len(rows), len(rows) // 10
    scale, near = MergeScale.for_cohort(devices), devices - f - 1
    return {
        "median": lambda: coordinate_median(rows),
        "trimmed-mean": lambda: trimmed_mean(rows, f, scale),
        "krum": lambda: krum(rows, f, neighbours=near),
        "multi-krum": lambda: multi_krum(rows, f, scale, neighbours=near),
        "geometric-median": lambda: geometric_median(rows, smoothing=0.1, iterations=3),
        CONVERGED: lambda: geometric_median(rows),
    }


def byzfl_merges(rows: NDArray[np.float32]) -> dict[str, Merge]:
    from tests.byzfl_rules import byzfl_rules

    byzfl, f = byzfl_rules(), len(rows) // 10
    found: dict[str, Merge] = {
        "median": lambda: byzfl.Median()(rows),
        "trimmed-mean": lambda: byzfl.TrMean(f)(rows),
        "krum": lambda: byzfl.Krum(f)(rows),
        "multi-krum": lambda: byzfl.MultiKrum(f)(rows),
        "geometric-median": lambda: byzfl.GeometricMedian()(rows),
    }
    return found | {CONVERGED: found["geometric-median"]}


def merges(side: str, path: Path, devices: int) -> dict[str, Merge]:
    mapped = np.memmap(path, "<f4", "r").reshape(devices, -1).view(np.ndarray)
    return kit_merges(list(mapped)) if side == "kit" else byzfl_merges(mapped.copy())


def serve(side: str, path: Path, devices: int) -> None:
    """Merge once for each rule that is asked for; answer with its seconds, by the clock and of processors."""
    known = merges(side, path, devices)
    print("ready", flush=True)
    for line in sys.stdin:
        began, busy = time.perf_counter(), time.process_time()
        found = known[line.strip()]()
        clock, processor = time.perf_counter() - began, time.process_time() - busy
        np.save(path.with_suffix(f".{side}.npy"), found)
        print(clock, processor, flush=True)


class Side(MergingProcess):
    """One process that merges by the rule that it is asked for, and what came out last."""

    def __init__(self, name: str, path: Path, devices: int, stack: ExitStack) -> None:
        words = ["-m", "bench.robust", "--side", name, "--file", str(path)]
        super().__init__([*words, "--devices", str(devices)], stack)
        self._result = path.with_suffix(f".{name}.npy")

    def result(self) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.load(self._result).astype(np.float64)
        return found


def measure(repeats: int, devices: int, numbers: int, rules: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        path = Path(name) / "rows"
        write_rows(path, devices, numbers)
        sides = {side: Side(side, path, devices, stack) for side in SIDES}
        found = {rule: measure_rule(sides, rule, repeats) for rule in rules}
        for side in sides.values():
            assert side.process.stdin is not None
            side.process.stdin.close()
    return {
        "rules": found,
        "target_ratio": TARGET_RATIO,
        "met": all(each["ratio"] <= TARGET_RATIO for each in found.values()),
        "devices": devices,
        "numbers": numbers,
        "repeats": repeats,
        "numpy": np.__version__,
        "processors": os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def measure_rule(sides: dict[str, Side], rule: str, repeats: int) -> dict[str, Any]:
    peaks = {}
    for name, side in sides.items():
        with PeakSampler([side.process.pid]) as sampler:
            side.merge(rule)
            peaks[name] = sampler.peak(side.process.pid).above_idle_bytes
    apart = float(np.abs(sides["kit"].result() - sides["byzfl"].result()).max())
    assert rule == CONVERGED or apart <= AGREE, f"{rule}: {apart} apart"
    both: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            both[name].append(side.merge(rule))
    seconds = {name: [clock for clock, _ in values] for name, values in both.items()}
    busy = {name: statistics.median(each for _, each in values) for name, values in both.items()}
    ratios = [a / b for a, b in zip(seconds["kit"], seconds["byzfl"], strict=True)]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "ratio": medians["kit"] / medians["byzfl"],
        "ratios": [min(ratios), max(ratios)],
        "seconds": medians,
        "processor_seconds": busy,
        "processor_ratio": busy["kit"] / busy["byzfl"],
        "peak_bytes": peaks,
        "apart": apart,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The robust rules against byzfl's.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--quick", action="store_true", help="20 devices, 50,000 numbers, twice")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--numbers", type=int, default=1_000_000)
    parser.add_argument("--rules", default=",".join([*RULES]), help="some of them")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        serve(options.side, options.file, options.devices)
        return
    if options.quick:
        options.devices, options.numbers, options.repeats = 20, 50_000, 2
    rules = options.rules.split(",")
    if "geometric-median" in rules:
        rules.append(CONVERGED)
    found = measure(options.repeats, options.devices, options.numbers, rules)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for rule, each in found["rules"].items():
        low, high = each["ratios"]
        print(
            f"{rule:28s}kit {each['seconds']['kit']:7.2f} s  byzfl {each['seconds']['byzfl']:7.2f} s  "
            f"ratio {each['ratio']:.2f} ({low:.2f} to {high:.2f}), of processor time "
            f"{each['processor_ratio']:.2f}; memory {each['peak_bytes']['kit'] / 1e6:.0f} MB, "
            f"{each['peak_bytes']['byzfl'] / 1e6:.0f} MB; {each['apart']:.0e} apart"
        )
    print(
        f"at most {TARGET_RATIO}: {'met' if found['met'] else 'not met'}; {found['devices']} devices, "
        f"{found['numbers']:,} numbers; median of {found['repeats']} (lowest to highest ratio), sides in "
        f"turn, {found['processors']} processors, numpy {found['numpy']}, load {found['load_average']:.2f}"
    )


if __name__ == "__main__":
    main()
