"""The exact merge of a round's updates against numpy's mean of the same files.

    python -m bench.merge [--json] [--heads-trained K] [--layers L]

100 update files of 1 M numbers lie in a warm page cache. ``kit`` reads one after another into one
buffer, checks each as if it came from a stranger, adds it to the exact sum and applies the mean to
the heads. ``numpy`` is `numpy.mean(axis=0, dtype=float64)` of a [100, 1 M] float32 array, each of whose
rows is read from the same file: all its bytes behind the header, nothing checked, nothing applied.
It is timed twice, since most of its time can go into 400 MB that it has never touched:

* ``numpy, kept array`` reads into an array that it keeps from one merge to the next. This is as fast
  as numpy can be, and the ratio that is held against the target.
* ``numpy, new array`` makes the array each time, as a program does that merges once a round.

Each side is a process of its own with one thread; they take turns. The first merge of each, in which its
memory is sampled from outside (anonymous, above the process before it), is not timed. Processor time
is printed too: where other programs run, it says more than the clock does.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
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
from ravan_edge.artifact import HEADS_BOUNDS, Layer, Role, read_header
from ravan_edge.memory import PeakSampler
from ravan_edge.merge import MergeScale, sum_updates
from ravan_edge.methods import method_for, ravan_table
from ravan_edge.protocol import UpdateInfo, UpdateReader, encode_update

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the tiny artifact belongs to the tests

TARGET_RATIO = 1.5
HEADS = 4
KEPT, NEW = "numpy, kept array", "numpy, new array"
SIDES = ("kit", KEPT, NEW)
DIGEST = "0" * 64


def make_updates(folder: Path, updates: int, parameters: int, layers: int, trained: int) -> int:
    """Write update files and what reads them below ``folder``; how many numbers train.

    Each device trains ``trained`` heads of each layer, chosen by lot.
    """
    from tests.tiny_artifact import make_tiny_artifact

    manifest = make_tiny_artifact(folder / "artifact").manifest
    rank = math.isqrt(parameters // (layers * HEADS))
    adapted = tuple(
        Layer(name=f"encoder.layer.{i}.query", outputs=384, inputs=384, heads=HEADS, rank=rank)
        for i in range(layers)
    )
    rest = [entry for entry in manifest.tensors if entry.role is Role.TASK_HEAD]
    manifest = manifest.model_copy(
        update={"layers": adapted, "tensors": (*ravan_table(adapted), *rest)}
    )
    method = method_for(manifest)
    (folder / "reader").write_bytes(pickle.dumps(UpdateReader(manifest, method, DIGEST)))
    generator = np.random.default_rng(0)
    start = np.zeros(method.layout.size, np.float32)
    for number in range(updates):
        heads = {
            layer.name: np.sort(generator.permutation(HEADS)[:trained]).astype(np.int32)
            for layer in adapted
        }
        difference = generator.normal(0, 0.01, start.size).astype(np.float32)
        info = UpdateInfo(f"task-{number:06d}", 0, DIGEST, examples=800, steps=50)
        content = encode_update(info, method, difference, method.training(start, heads))
        (folder / f"{number:06d}.update").write_bytes(content)
    return start.size


def kit_side(paths: Sequence[Path]) -> Callable[[], object]:
    reader: UpdateReader = pickle.loads((paths[0].parent / "reader").read_bytes())  # noqa: S301
    heads = np.zeros(reader.method.layout.size, np.float32)
    scale = MergeScale.for_cohort(len(paths))
    return lambda: sum_updates(reader.contents(paths), reader, scale).apply(heads)


def numpy_side(paths: Sequence[Path], *, kept: bool) -> Callable[[], object]:
    headers = [read_header(path, HEADS_BOUNDS) for path in paths]
    ((begin, end),) = {(header.data_offset, header.file_bytes) for header in headers}

    def new() -> NDArray[np.float32]:
        return np.empty((len(paths), (end - begin) // 4), np.float32)

    array = new() if kept else None

    def merge() -> NDArray[np.float64]:
        rows = new() if array is None else array
        for row, path in zip(rows, paths, strict=True):
            with path.open("rb", buffering=0) as file:
                file.seek(begin)
                assert file.readinto(row.data) == row.nbytes
        mean: NDArray[np.float64] = np.mean(rows, axis=0, dtype=np.float64)
        return mean

    return merge


def serve(side: str, folder: Path) -> None:
    """Merge once for each line that comes in; answer with its seconds, by the clock and of the processor."""
    paths = sorted(folder.glob("*.update"))
    merge = kit_side(paths) if side == "kit" else numpy_side(paths, kept=side == KEPT)
    print("ready", flush=True)
    for _ in sys.stdin:
        began, busy = time.perf_counter(), time.process_time()
        merge()
        print(time.perf_counter() - began, time.process_time() - busy, flush=True)


class Side(MergingProcess):
    """One process that merges when it is asked to, and the memory that its first merge took."""

    def __init__(self, name: str, folder: Path, stack: ExitStack) -> None:
        words = ["-m", "bench.merge", "--side", name, "--folder", str(folder)]
        super().__init__(words, stack, {"OMP_NUM_THREADS": "1"})
        with PeakSampler([self.process.pid]) as sampler:
            self.merge("go")
            self.peak_bytes = sampler.peak(self.process.pid).above_idle_bytes


def measure(
    repeats: int, updates: int, parameters: int, layers: int, trained: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        size = make_updates(folder, updates, parameters, layers, trained)
        file_bytes = (folder / f"{0:06d}.update").stat().st_size
        sides = {side: Side(side, folder, stack) for side in SIDES}
        both: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
        for _ in range(repeats):
            for side, process in sides.items():
                both[side].append(process.merge("go"))
        peaks = {side: process.peak_bytes for side, process in sides.items()}
        for process in sides.values():
            assert process.process.stdin is not None
            process.process.stdin.close()
    seconds = {side: [clock for clock, _ in values] for side, values in both.items()}
    busy = {side: [processor for _, processor in values] for side, values in both.items()}
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    busy_medians = {side: statistics.median(values) for side, values in busy.items()}
    ratio = medians["kit"] / medians[KEPT]
    return {
        "seconds": medians,
        "ratio": ratio,
        "target_ratio": TARGET_RATIO,
        "met": ratio <= TARGET_RATIO,
        "ratio_new_array": medians["kit"] / medians[NEW],
        "processor_seconds": busy_medians,
        "processor_ratio": busy_medians["kit"] / busy_medians[KEPT],
        "peak_bytes": peaks,
        "updates": updates,
        "parameters": size,
        "file_bytes": file_bytes,
        "layers": layers,
        "heads": HEADS,
        "heads_trained": trained,
        "numpy": np.__version__,
        "processors": os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "all_seconds": seconds,
        "all_processor_seconds": busy,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The exact merge against numpy's mean.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads-trained", type=int, default=HEADS, help="of four, in each layer")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        serve(options.side, options.folder)
        return
    found = measure(
        options.repeats, options.updates, options.parameters, options.layers, options.heads_trained
    )
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for side in SIDES:
        values = found["all_seconds"][side]
        print(
            f"{side:20s}{found['seconds'][side] * 1e3:8.0f} ms "
            f"({min(values) * 1e3:.0f} to {max(values) * 1e3:.0f})"
            f"{found['peak_bytes'][side] / 1e6:8.0f} MB"
        )
    print(
        f"ratio to numpy with a kept array {found['ratio']:.2f} (at most {TARGET_RATIO}), "
        f"of processor time {found['processor_ratio']:.2f}; "
        f"with a new array {found['ratio_new_array']:.2f}\n"
        f"{found['updates']} updates of {found['parameters']:,} numbers, {found['file_bytes']:,} bytes, "
        f"{found['layers']} layers, {found['heads_trained']} of {HEADS} heads; "
        f"median of {options.repeats} (lowest to highest), sides in turn, 1 thread, "
        f"numpy {found['numpy']}, load {found['load_average']:.2f}"
    )


if __name__ == "__main__":
    main()
