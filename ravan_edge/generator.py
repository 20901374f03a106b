"""The integer counter generator: the only source of randomness on a device.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011),
addressed by what the numbers are *for* instead of by a running state, so that Python, Kotlin and
JavaScript choose the same heads and the same batches in whatever order they ask. The bit-by-bit
specification, with test vectors, is ``docs/generator.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_SEED", "Purpose", "Stream", "philox4x32"]

MAX_SEED = 2**64 - 1

_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = 0x9E3779B9
_WEYL_1 = 0xBB67AE85
_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


class Purpose(IntEnum):
    """What random words are for. The numbers are part of the specification and never change."""

    SELECT_HEADS = 1
    SHUFFLE = 2
    COHORT = 3
    DROP_OUT = 4
    HEAD_BUDGET = 5
    DEVICE_SPEED = 6
    VALIDATION_SPLIT = 7
    PARTITION = 8
    BASES = 9
    TASK_HEAD = 10
    CONFORMANCE = 11
    ROUNDING = 12
    MASKING = 13


def philox4x32(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Ten rounds of Philox4x32 on many counters at once.

    Args:
        counter: [blocks, 4] words c0..c3 of each block.
        key: The words k0, k1, each below 2**32.

    Returns:
        [blocks, 4] random words.

    >>> philox4x32(np.zeros((1, 4), dtype=np.uint32), (0, 0)).tolist() == [
    ...     [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]]
    True
    """
    c0, c1, c2, c3 = (counter[:, word].astype(np.uint64) for word in range(4))
    k0, k1 = key
    for _ in range(10):
        product_0 = c0 * _MULTIPLIER_0
        product_1 = c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (
            (product_1 >> _HALF) ^ c1 ^ np.uint64(k0),
            product_1 & _MASK,
            (product_0 >> _HALF) ^ c3 ^ np.uint64(k1),
            product_0 & _MASK,
        )
        k0 = (k0 + _WEYL_0) & 0xFFFFFFFF
        k1 = (k1 + _WEYL_1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


@dataclass(frozen=True, slots=True)
class Stream:
    """An endless, addressable sequence of random words.

    Word ``4 b + j`` is word ``j`` of Philox4x32-10 with key ``(seed mod 2^32, seed div 2^32)`` and
    counter ``(b, round, device, purpose * 2^24 + index)``. Every method reads from word 0: a
    stream has no position, two calls return the same numbers.

    Args:
        seed: 0 .. 2**64 - 1, the run's seed.
        purpose: What the numbers are for.
        round: 0 .. 2**32 - 1.
        device: 0 .. 2**32 - 1.
        index: 0 .. 2**24 - 1: the n-th use for the same purpose (pass over the data, layer, ...).

    Raises:
        ValueError: An argument is out of its range.
    """

    seed: int
    purpose: Purpose
    round: int = 0
    device: int = 0
    index: int = 0

    def __post_init__(self) -> None:
        for name, value, limit in (
            ("seed", self.seed, 64),
            ("round", self.round, 32),
            ("device", self.device, 32),
            ("index", self.index, 24),
        ):
            if not 0 <= value < 1 << limit:
                raise ValueError(f"{name} is {value}, expected 0 <= {name} < 2**{limit}")

    def words(self, count: int, first: int = 0) -> NDArray[np.uint32]:
        """The ``count`` words from word ``first`` on, a multiple of 4; uint32 [count]."""
        if first % 4:
            raise ValueError(f"word {first} is not the first of its block")
        blocks = -(-count // 4)
        counter = np.empty((blocks, 4), dtype=np.uint32)
        counter[:, 0] = np.arange(first // 4, first // 4 + blocks, dtype=np.uint32)
        counter[:, 1] = self.round
        counter[:, 2] = self.device
        counter[:, 3] = (int(self.purpose) << 24) | self.index
        key = (self.seed & 0xFFFFFFFF, self.seed >> 32)
        return philox4x32(counter, key).reshape(-1)[:count]

    def permutation(self, size: int) -> NDArray[np.int64]:
        """A permutation of 0 .. size-1, int64 [size].

        The indices in ascending order of the 64-bit keys ``word[2 i] * 2^32 + word[2 i + 1]``,
        equal keys in ascending order of the index.

        >>> Stream(7, Purpose.SHUFFLE).permutation(5).tolist()
        [2, 4, 0, 3, 1]
        """
        words = self.words(2 * size).astype(np.uint64).reshape(size, 2)
        keys = (words[:, 0] << _HALF) | words[:, 1]
        return np.argsort(keys, kind="stable").astype(np.int64)

    def choose(self, count: int, size: int) -> NDArray[np.int64]:
        """``count`` different numbers below ``size``, ascending: the permutation's first ones."""
        if not 0 <= count <= size:
            raise ValueError(f"cannot choose {count} of {size}")
        return np.sort(self.permutation(size)[:count])

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Float64 [count] in [0, 1): ``((word[2 i] >> 5) * 2^26 + (word[2 i + 1] >> 6)) / 2^53``."""
        words = self.words(2 * count).astype(np.uint64).reshape(count, 2)
        high = words[:, 0] >> np.uint64(5)
        low = words[:, 1] >> np.uint64(6)
        return (high * np.uint64(1 << 26) + low).astype(np.float64) / float(1 << 53)

    def normal(self, count: int) -> NDArray[np.float64]:
        """Standard normal float64 [count] by Box and Muller, from ``uniform(2 * pairs)``.

        Uses the C library's ``log``, ``cos`` and ``sin``: equal bits on one machine and library
        set only. Good for what a server ships as bytes (bases), not for what devices must agree on.
        """
        pairs = -(-count // 2)
        uniform = self.uniform(2 * pairs).reshape(pairs, 2)
        radius = np.sqrt(-2.0 * np.log1p(-uniform[:, 0]))
        angle = 2.0 * np.pi * uniform[:, 1]
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[
            :count
        ]
