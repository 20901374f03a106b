"""Throughput of the simulator itself: a model so small that a step costs nothing.

    python -m bench.simulation [--json]

10 kB of heads, 2 workers, 1 local step, 100 devices a round, no evaluation, one fsync a round. Each
repeat is a `ravan simulate` process of its own; times are taken from outside, when its line of a
round arrives. The other side is the same work without a simulator: one process that calls
`local_round` and adds to the exact sum, times the number of workers, which no simulator can beat.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the tiny artifact belongs to the tests

TARGET_RATE = 2000.0
TARGET_FIRST_SECONDS = 2.0
DEVICES = 200
ROWS = 2400
MAX_LENGTH = 32
BATCH = 16

LOWER_BOUND = """
import json, sys, time
from pathlib import Path
import numpy as np
from ravan_edge.artifact import open_artifact
from ravan_edge.data import read_rows, tokenise
from ravan_edge.merge import ExactSum, MergeScale
from ravan_edge.methods import method_for
from ravan_edge.plans import RuntimeSettings, open_step
from ravan_edge.training import LocalSettings, local_round
folder, train, devices, batch, length = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
artifact = open_artifact(Path(folder))
method = method_for(artifact.manifest)
dataset = tokenise(read_rows(train), artifact.tokenizer_path, max_length=length,
                   label_names=artifact.manifest.labels)
heads = method.layout.pack(artifact.initial_heads())
parts = np.array_split(np.arange(len(dataset)), devices)
total = ExactSum.empty(len(heads), MergeScale.for_cohort(devices))
settings = LocalSettings(local_steps=1, batch_size=batch)
layers = {layer.name: layer.heads for layer in artifact.manifest.layers}
with open_step(artifact, "whole", RuntimeSettings()) as step:
    for lap in range(4):
        if lap == 1:
            began = time.perf_counter()
        for device, part in enumerate(parts):
            result = local_round(step, method, heads, dataset, part, settings, layers=layers,
                pad_id=0, inputs=("input_ids", "attention_mask"), seed=0, round=lap, device=device)
            total.add(result.difference, result.training.mask)
print(json.dumps(3 * devices / (time.perf_counter() - began)))
"""


@dataclass(frozen=True)
class Repeat:
    """One process of each side.

    Args:
        device_rounds_per_second: From the first round's line to the last one's.
        first_round_seconds: From the start of the process to the first round's line.
        bound_per_second: Device-rounds a second of one bare process.
    """

    device_rounds_per_second: float
    first_round_seconds: float
    bound_per_second: float


def make_data(folder: Path) -> None:
    """The artifact and training rows below ``folder``."""
    from tests.tiny_artifact import TinySizes, make_tiny_artifact, tiny_rows

    sizes = TinySizes(width=32, heads=4, rank=24)
    make_tiny_artifact(folder / "artifact", sizes=sizes)
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(tiny_rows(ROWS, sizes=sizes))


def environment(folder: Path) -> dict[str, str]:
    """Token ids are cached here, and numpy has one thread as in a worker."""
    return {**os.environ, "RAVAN_CACHE_DIR": str(folder / "cache"), "OMP_NUM_THREADS": "1"}


def simulate_once(
    folder: Path, number: int, rounds: int, per_round: int, workers: int
) -> tuple[float, float]:
    """Device-rounds a second and seconds to the first round of one ``ravan simulate``."""
    words = [
        *(sys.executable, "-m", "ravan_edge.cli.main", "simulate", str(folder / "artifact")),
        *("--train", str(folder / "train.csv"), "--out", str(folder / f"run{number}")),
        *("--rounds", str(rounds), "--per-round", str(per_round), "--devices", str(DEVICES)),
        *("--local-steps", "1", "--batch-size", str(BATCH), "--max-length", str(MAX_LENGTH)),
        *("--evaluate-every", "0", "--validation", "0", "--workers", str(workers)),
    ]
    began = time.perf_counter()
    lines: list[float] = []
    with subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(folder),
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("round "):
                lines.append(time.perf_counter())
    if process.returncode:
        raise SystemExit("".join(said))
    return (rounds - 1) * per_round / (lines[-1] - lines[0]), lines[0] - began


def bound_once(folder: Path, workers: int) -> float:
    """Device-rounds a second of a bare process, times the workers."""
    words = [str(folder / "artifact"), str(folder / "train.csv"), str(DEVICES), str(BATCH)]
    answer = subprocess.run(
        [sys.executable, "-c", LOWER_BOUND, *words, str(MAX_LENGTH)],
        check=True,
        capture_output=True,
        text=True,
        env=environment(folder),
    ).stdout
    return workers * float(answer)


def measure(repeats: int, rounds: int, per_round: int, workers: int) -> dict[str, object]:
    """Medians of both sides, taken in turn."""
    found: list[Repeat] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder)
        for number in range(repeats):
            rate, first = simulate_once(folder, number, rounds, per_round, workers)
            found.append(Repeat(rate, first, bound_once(folder, workers)))
            print(found[-1], file=sys.stderr)
        heads_bytes = (folder / "artifact" / "heads.safetensors").stat().st_size
    rate = statistics.median(each.device_rounds_per_second for each in found)
    bound = statistics.median(each.bound_per_second for each in found)
    first = statistics.median(each.first_round_seconds for each in found)
    return {
        "device_rounds_per_second": rate,
        "target_rate": TARGET_RATE,
        "bound_per_second": bound,
        "bound_ratio": rate / bound,
        "first_round_seconds": first,
        "target_first_round_seconds": TARGET_FIRST_SECONDS,
        "met": rate >= TARGET_RATE and first <= TARGET_FIRST_SECONDS,
        "workers": workers,
        "per_round": per_round,
        "rounds": rounds,
        "heads_bytes": heads_bytes,
        "processors": os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "repeats": [asdict(each) for each in found],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Device-rounds a second of the simulator.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--per-round", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    found = measure(options.repeats, options.rounds, options.per_round, options.workers)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"simulator   {found['device_rounds_per_second']:,.0f} device-rounds/s "
        f"(target {TARGET_RATE:,.0f})\n"
        f"bare loop   {found['bound_per_second']:,.0f} device-rounds/s, "
        f"ratio {found['bound_ratio']:.2f}\n"
        f"first round {found['first_round_seconds']:.2f} s after the start of the process "
        f"(target {TARGET_FIRST_SECONDS:.0f})\n"
        f"{options.workers} workers, {options.per_round} devices a round, {options.rounds} rounds, "
        f"{found['heads_bytes']} bytes of heads, median of {options.repeats}, "
        f"load {found['load_average']}"
    )


if __name__ == "__main__":
    main()
