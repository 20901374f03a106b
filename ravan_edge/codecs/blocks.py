"""Integers with one step for each block of 64 numbers, rounded at random so that the mean is right.

For a block whose largest |D| is M, and codes -L .. L (L is 127 or 7):

    s  the smallest bfloat16 that is at least 2^-126 and has L s >= M; L s is exact in float64
    y = float64(|D|) / float64(s)                          at most L: nothing is clipped
    m = floor(y);  t = floor((y - m) 2^32)                 y - m and its product are exact
    q = sign(D) (m + 1 if word < t, else m)                word: 32 bits of the generator, one for each number

What is read is q s, exact in float32 (7 and 8 bits). |q s - D| < s, and the mean over all words is D
within 2^-31 s: t cuts off less than 2^-32, and the division rounds by at most 2^-46.
(Alistarh et al., QSGD, NeurIPS 2017, section 3.1, with the largest |D| instead of a norm.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.codecs.codec import Numbers, check_finite, refused
from ravan_edge.generator import Stream

__all__ = ["BLOCK", "SCALES", "block_count", "quantise", "restore"]

BLOCK = 64
SCALES = "scales"

# Numbers worked on at a time: their float64 and their random words stay near the processor.
_CHUNK = 16_384
_SMALLEST_BITS = 0x0080  # 2^-126, the smallest normal one
_INFINITE_BITS = 0x7F80


def block_count(count: int) -> int:
    """How many blocks ``count`` numbers have."""
    return -(-count // BLOCK)


def quantise(
    numbers: Numbers, levels: int, stream: Stream
) -> tuple[NDArray[np.int8], NDArray[np.uint16]]:
    """Codes, int8 [n], and the bits of the blocks' steps as bfloat16, uint16 [blocks].

    Args:
        numbers: Float32 [n].
        levels: L, the largest code.
        stream: Word i rounds number i.

    Raises:
        NumericsError: A number is NaN or infinite.
    """
    check_finite(numbers)
    count = len(numbers)
    codes = np.empty(count, np.int8)
    scales = np.empty(block_count(count), np.uint16)
    for first in range(0, count, _CHUNK):
        part = numbers[first : first + _CHUNK]
        rows = block_count(len(part))
        wide = np.zeros((rows, BLOCK), np.float64)
        wide.reshape(-1)[: len(part)] = part
        size = np.abs(wide)
        bits = _scale_bits(size.max(axis=1), levels)
        scales[first // BLOCK : first // BLOCK + rows] = bits
        np.divide(size, _steps(bits).astype(np.float64)[:, np.newaxis], out=size)
        code = np.floor(size)
        size -= code
        size *= 2.0**32
        np.floor(size, out=size)
        code += stream.words(rows * BLOCK, first).reshape(rows, BLOCK) < size
        np.copysign(code, wide, out=code)
        codes[first : first + _CHUNK] = code.reshape(-1)[: len(part)]
    return codes, scales


def restore(codes: NDArray[np.int8], scales: NDArray[np.uint16], out: Numbers, where: str) -> None:
    """Read numbers into ``out``.

    Args:
        codes: Int8 [n].
        scales: Bits of bfloat16, uint16 [blocks].
        out: Float32 [n].
        where: How errors call the update.

    Raises:
        ArtifactError: A step is no positive, normal, finite number.
    """
    bad = (scales < _SMALLEST_BITS) | (scales >= _INFINITE_BITS)
    if bad.any():
        block = int(np.argmax(bad))
        raise refused(
            f"{float(_steps(scales[block : block + 1])[0]):g} at index [{block}], expected a step: "
            "positive, normal and finite",
            SCALES,
            where,
        )
    steps = _steps(scales)
    whole = len(out) // BLOCK * BLOCK
    with np.errstate(
        over="ignore"
    ):  # a stranger's steps may be large; infinite numbers are refused
        np.multiply(
            codes[:whole].reshape(-1, BLOCK),
            steps[: whole // BLOCK, np.newaxis],
            out=out[:whole].reshape(-1, BLOCK),
        )
        if whole < len(out):
            np.multiply(codes[whole:], steps[-1], out=out[whole:])


def _steps(bits: NDArray[Any]) -> NDArray[np.float32]:
    """The numbers that bits of bfloat16 stand for: the upper half of a float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _scale_bits(largest: NDArray[np.float64], levels: int) -> NDArray[np.uint32]:
    """The smallest step of each block: bits of bfloat16, uint32 [blocks].

    Args:
        largest: M of each block, float64 [blocks].
        levels: L.
    """
    # The upper half of M / L as float32 is the bfloat16 at or below it; if it is too small, the next
    # one is not. Steps below 2^-126 are not used, so it does not matter what happens to them here.
    below = (largest / levels).astype(np.float32).view(np.uint32) >> np.uint32(16)
    short = _steps(below).astype(np.float64) * levels < largest
    bits: NDArray[np.uint32] = np.maximum(below + short, np.uint32(_SMALLEST_BITS))
    return bits
