"""What each codec makes of an update: bytes, speed, error.

    python -m bench.codecs [--json] [--repeats 15]

An update of the demo's size (MiniLM-L6: 12 adapted layers of 4 heads, and a classifier of 77 labels)
and one of 1 M numbers, normal with a spread that differs from tensor to tensor. ``copy`` is
`numpy.copyto` of the same float32 numbers, in the same process and in turn with the others: what speeds
are held against, for machines differ. ``encode`` is what a device does (random numbers included), ``decode``
what a server does for each update it receives and once more when it merges it: checks and numbers. All
with one thread.

``error`` is the norm of what is read less what was written, relative to that of what was written; ``of 100``
is the same of the mean of 100 devices that send the same numbers: what is biased stays, what is not
averages out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ravan_edge.artifact import Layer, Manifest, Role
from ravan_edge.codecs import CODECS, Codec, CodecName
from ravan_edge.codecs.top_k import TopK
from ravan_edge.methods import Method, Training, Vector, method_for, ravan_table
from ravan_edge.protocol import (
    UpdateInfo,
    UpdateReader,
    code_difference,
    encode_coded_update,
    encode_update,
    rounding_stream,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the tiny artifact belongs to the tests

DIGEST = "0" * 64
DEVICES = 100
HEADS = 4
BOUND = 64.0
CODERS: list[Codec | None] = [
    None,
    *(codec for codec in CODECS.values() if codec.name is not CodecName.TOP_K),
    TopK(0.1),
    TopK(0.01),
]


@dataclass(frozen=True)
class Size:
    """An update: its name, adapted layers, rank and labels of the classifier."""

    name: str
    layers: int
    rank: int
    labels: int

    def manifest(self, like: Manifest) -> Manifest:
        """A manifest of that size; its files are nobody's."""
        adapted = tuple(
            Layer(
                name=f"encoder.layer.{i}.query",
                outputs=384,
                inputs=384,
                heads=HEADS,
                rank=self.rank,
            )
            for i in range(self.layers)
        )
        rest = [
            entry.model_copy(update={"shape": (self.labels, *([384] * (len(entry.shape) - 1)))})
            for entry in like.tensors
            if entry.role is Role.TASK_HEAD
        ]
        return like.model_copy(
            update={"layers": adapted, "tensors": (*ravan_table(adapted), *rest)}
        )


SIZES = (Size("demo", 12, 39, 77), Size("1 M numbers", 24, math.isqrt(10**6 // 96), 3))


@dataclass(frozen=True)
class Figure:
    """What was found of one codec."""

    size: str
    codec: str
    numbers: int
    bytes: int
    encode_mb: float
    decode_mb: float
    encode_ratio: float
    decode_ratio: float
    error: float
    error_of_many: float


def measure(size: Size, repeats: int, devices: int = DEVICES) -> list[Figure]:
    """All codecs on one update, in turn.

    Args:
        size: The update.
        repeats: Times each is timed.
        devices: Whose mean is taken.
    """
    from tests.tiny_artifact import make_tiny_artifact

    with tempfile.TemporaryDirectory() as folder:
        manifest = size.manifest(make_tiny_artifact(Path(folder) / "artifact").manifest)
    method = method_for(manifest)
    reader = UpdateReader(manifest, method, DIGEST)
    generator = np.random.default_rng(0)
    difference = np.zeros(method.layout.size, np.float32)
    for segment in method.layout.segments:
        if segment.role is not Role.SCALE:
            spread = 0.01 * 10 ** generator.uniform(-1, 1)
            difference[segment.place] = generator.normal(0, spread, segment.stop - segment.start)
    training = method.training(np.zeros_like(difference), None)
    sent = method.layout.size - int(np.count_nonzero(method.layout.mask(Role.SCALE)))

    sides: list[tuple[str, Callable[[], object]]] = []
    target = np.empty_like(difference)
    sides.append(("copy", lambda: np.copyto(target, difference)))
    contents: dict[str, bytes] = {}
    buffer = reader.numbers_buffer()
    for codec in CODERS:
        write, name = _update(codec, difference), _name(codec)
        contents[name] = write(method, training)
        sides.append((f"encode {name}", partial(write, method, training)))
        sides.append((f"decode {name}", partial(reader.view, contents[name], buffer=buffer)))
    seconds: dict[str, list[float]] = {name: [] for name, _ in sides}
    for turn in range(repeats + 1):
        for name, work in sides:
            began = time.perf_counter()
            work()
            if turn:  # the first touches memory for the first time
                seconds[name].append(time.perf_counter() - began)
    taken = {name: statistics.median(found) for name, found in seconds.items()}
    megabytes = 4 * sent / 1e6
    figures = []
    for codec in CODERS:
        name = _name(codec)
        encode, decode = taken[f"encode {name}"], taken[f"decode {name}"]
        one, many = _errors(codec, method, training, difference, devices)
        figures.append(
            Figure(
                size.name,
                name,
                sent,
                len(contents[name]),
                megabytes / encode,
                megabytes / decode,
                taken["copy"] / encode,
                taken["copy"] / decode,
                one,
                many,
            )
        )
    return figures


def _name(codec: Codec | None) -> str:
    if codec is None:
        return str(CodecName.FP32)
    return f"{codec.name} {codec.share:g}" if isinstance(codec, TopK) else str(codec.name)


def _update(codec: Codec | None, difference: Vector) -> Callable[[Method, Training], bytes]:
    """What a device does at the end of a round."""
    name = CodecName.FP32 if codec is None else codec.name
    info = UpdateInfo("task", 0, DIGEST, examples=800, steps=50, codec=name)

    def write(method: Method, training: Training) -> bytes:
        if codec is None:
            return encode_update(info, method, difference, training)
        coded = code_difference(
            codec, method, difference, training, None, rounding_stream(0, 0, 0), BOUND
        )
        return encode_coded_update(info, training, coded.tensors)

    return write


def _errors(
    codec: Codec | None, method: Method, training: Training, difference: Vector, devices: int
) -> tuple[float, float]:
    """Of one update, and of the mean of many."""
    if codec is None:
        return 0.0, 0.0
    total = np.zeros(len(difference))
    first = None
    many = 1 if codec.biased else devices  # what is biased is the same for every device
    for device in range(many):
        stream = rounding_stream(0, 0, device)
        coded = code_difference(codec, method, difference, training, None, stream, BOUND)
        total += coded.received
        if first is None:
            first = np.linalg.norm(coded.received.astype(np.float64) - difference)
    norm = np.linalg.norm(difference.astype(np.float64))
    assert first is not None
    return float(first / norm), float(np.linalg.norm(total / many - difference) / norm)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--devices", type=int, default=DEVICES)
    options = parser.parse_args(arguments)
    figures = [
        figure for size in SIZES for figure in measure(size, options.repeats, options.devices)
    ]
    if options.json:
        print(json.dumps([asdict(figure) for figure in figures]))
        return
    print("speeds in MB of float32 a second; ratio: to a plain copy of the same numbers")
    for figure in figures:
        print(
            f"{figure.size:<12} {figure.numbers:>9,} {figure.codec:<11} {figure.bytes:>9,} bytes"
            f"  encode {figure.encode_mb:>7,.0f} ({figure.encode_ratio:.3f})"
            f"  decode {figure.decode_mb:>7,.0f} ({figure.decode_ratio:.3f})"
            f"  error {figure.error:.2e}, of {options.devices} {figure.error_of_many:.2e}"
        )


if __name__ == "__main__":
    main()
