"""Vectors of many devices, looked at in blocks of columns: never all of them in memory a second time."""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.methods import Vector

__all__ = ["Rows", "by_content", "each_block", "gathered", "in_turn", "mapped_blocks", "room"]

Rows = Sequence[Vector]
"""One float32 vector of each device, all of one length; also float32 [devices, numbers]. They may be
views of memory-mapped files."""

# Numbers of all devices together that are worked on at a time: 0.5 MB, which stays near the processor.
_BLOCK = 1 << 17
_MOST_THREADS = 4


class _Rooms(threading.local):
    """Memory of each thread, kept: what is new to the process costs more to touch than to use."""

    def __init__(self) -> None:
        self.found: dict[str, NDArray[np.uint8]] = {}


_ROOMS = _Rooms()


def room(name: str, shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
    """An array with anything in it, of this thread; good until the next of the same name."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    kept = _ROOMS.found.get(name)
    if kept is None or len(kept) < size:
        kept = _ROOMS.found[name] = np.empty(size, np.uint8)
    return kept[:size].view(kind).reshape(shape)


def each_block(rows: Rows) -> list[slice]:
    """Ranges of columns, one behind the other, that together are all of them."""
    numbers = len(rows[0])
    # An odd multiple of a cache line: lines that lie a power of two apart push each other out of the cache.
    width = max(1, _BLOCK // len(rows) // 32) * 32 + 16
    return [slice(begin, min(begin + width, numbers)) for begin in range(0, numbers, width)]


def gathered(rows: Rows, block: slice) -> NDArray[np.float32]:
    """Float32 [devices, columns], a copy in this thread's room."""
    found: NDArray[np.float32] = room("rows", (len(rows), block.stop - block.start), np.float32)
    for one, row in zip(found, rows, strict=True):
        one[...] = row[block]
    return found


def in_turn(rows: Rows, work: Callable[[slice], None]) -> None:
    """Work on each block by itself, on several processors; nothing may depend on which is done first."""
    blocks = each_block(rows)
    threads = min(_processors(), len(blocks))
    if threads <= 1:
        for block in blocks:
            work(block)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, blocks):  # an error of one is raised here
            pass


def mapped_blocks(
    rows: Rows, work: Callable[[NDArray[np.float32]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """What comes out of each block, side by side.

    Args:
        rows: Of at least one device.
        work: From float32 [devices, columns], its own to overwrite, to float64 [columns].

    Returns:
        Float64 [numbers].
    """
    found = np.empty(len(rows[0]), np.float64)

    def do(block: slice) -> None:
        # + 0: a zero is never negative, so that bits depend on values alone.
        np.add(work(gathered(rows, block)), 0.0, out=found[block])

    in_turn(rows, do)
    return found


def by_content(rows: Rows) -> list[Vector]:
    """The same vectors, ordered by their bytes, little-endian: so by nothing but what is in them.

    Whatever order they come in, whoever works on them in this order gets the same bits.
    """

    def compare(one: Vector, other: Vector) -> int:
        begin, size = 0, 64
        while begin < len(one):
            a, b = (_bytes(row[begin : begin + size]) for row in (one, other))
            if a != b:
                return -1 if a < b else 1
            begin, size = begin + size, 4 * size
        return 0

    return sorted(rows, key=functools.cmp_to_key(compare))


def _bytes(part: Vector) -> bytes:
    return np.add(part, np.float32(0.0)).astype("<f4", copy=False).tobytes()


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    return min(_MOST_THREADS, os.cpu_count() or 1)
