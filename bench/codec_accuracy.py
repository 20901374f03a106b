"""What each codec costs in accuracy: the demo's federation by ``ravan simulate``, once with each.

    python -m bench.codec_accuracy [ARTIFACT] [--rounds 8] [--seeds 0,1] [--codecs fp32,int4] [--json]

banking77 as in ``ravan demo``: its settings and rates, its 20 devices, and with one seed the same partition,
cohorts and batches for each codec. Each run is a process of its own; a finished one is read back from
``--work``, an interrupted one goes on. A figure is the mean accuracy on the test rows over the last three
evaluated rounds (every second one), since a single round of three devices is noisy. It chooses nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ravan_edge.cli.demo import DEMO_SETTINGS
from ravan_edge.codecs import CodecName

__all__ = ["Accuracy", "accuracy_of", "main"]

_DATA = Path(__file__).resolve().parent.parent / "data" / "banking77"
LAST = 3
"""Evaluated rounds of a figure."""


@dataclass(frozen=True)
class Accuracy:
    """Of one codec.

    Attributes:
        codec: Its name.
        upload_bytes: Of one update.
        figures: Mean over the last evaluated rounds, a figure for each seed.
        final: After the last round, for each seed.
    """

    codec: str
    upload_bytes: int
    figures: Sequence[float]
    final: Sequence[float]


def accuracy_of(codec: str, runs: Sequence[Path]) -> Accuracy:
    """What the folders of finished runs say, one for each seed."""
    figures, final, size = [], [], 0
    for run in runs:
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        found = [
            each["accuracy"]
            for each in lines
            if each["kind"] == "evaluation" and each["set"] == "test" and each["round"]
        ]
        figures.append(statistics.fmean(found[-LAST:]))
        final.append(found[-1])
        size = json.loads((run / "summary.json").read_text())["upload_bytes_per_update"]
    return Accuracy(codec, size, figures, final)


def _simulate(artifact: Path, out: Path, more: Mapping[str, Any]) -> None:
    local, demo = DEMO_SETTINGS.local, DEMO_SETTINGS
    options = {
        "train": _DATA / "train.parquet",
        "test": _DATA / "test.parquet",
        "out": out,
        "devices": demo.devices,
        "per_round": demo.per_round,
        "partition": demo.partition,
        "max_length": demo.max_length,
        "local_steps": local.local_steps,
        "batch_size": local.batch_size,
        "micro_batch": local.micro_batch,
        "lr": local.lr,
        "task_head_lr": local.task_head_lr,
        "validation": 0,  # no round is chosen, so no rows are held back for that
        "evaluate_every": 2,
        **more,
    }
    words = [word for name, value in options.items() for word in (_flag(name), str(value))]
    command = [sys.executable, "-m", "ravan_edge.cli.main", "simulate", str(artifact), *words]
    done = subprocess.run(command, check=False, stdout=2)  # 2: its result is progress here
    if done.returncode:
        raise SystemExit(done.returncode)  # it has said why


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", nargs="?", type=Path, default=Path("runs/demo/artifact"))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--codecs", default=",".join(CodecName))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/codecs"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    seeds, codecs = options.seeds.split(","), options.codecs.split(",")
    for seed in seeds:
        for codec in codecs:
            more = {"rounds": options.rounds, "seed": seed, "codec": codec}
            out = options.work / f"{codec}-{seed}"
            _simulate(options.artifact, out, more | {"workers": options.workers})
    found = [
        accuracy_of(codec, [options.work / f"{codec}-{seed}" for seed in seeds]) for codec in codecs
    ]
    if options.json:
        print(json.dumps([asdict(each) for each in found]))
        return
    print(f"accuracy on the test rows, seeds {options.seeds}; difference: to {codecs[0]}")
    for each in found:
        mean = statistics.fmean(each.figures)
        print(
            f"{each.codec:<6} {each.upload_bytes:>8,} bytes  {_percent(each.figures)}  mean {mean:.1%}"
            f"  difference {100 * (mean - statistics.fmean(found[0].figures)):+.1f}"
            f"  after round {options.rounds}: {_percent(each.final)}"
        )


def _percent(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.1%}" for share in shares)


if __name__ == "__main__":
    main()
