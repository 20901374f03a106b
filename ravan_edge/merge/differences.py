"""The differences of all devices, for rules that must see them beside each other.

They lie in files, a row for each device, and are read through the page cache: of what a rule looks at, no
more than a few blocks are in this process's own memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravan_edge.files import storage_errors
from ravan_edge.merge.exact import MergeScale
from ravan_edge.merge.robust import Rows
from ravan_edge.merge.vectors import HeadVectors
from ravan_edge.merge.weight import PLAIN, Weight
from ravan_edge.methods import Vector

__all__ = ["DifferenceFile", "Differences"]


@dataclass(frozen=True)
class _Written:
    """Rows of one file, float32 little-endian, and bool [rows, vectors]: what each device trained."""

    path: Path
    trained: NDArray[np.bool_]


@dataclass
class Differences:
    """Rows that were written, maybe by several processes; they can be sent from one to another.

    Attributes:
        scale: The round's fixed-point scale: no number is beyond its bound.
        parts: The files.
    """

    scale: MergeScale
    parts: tuple[_Written, ...]

    def combine(self, other: Differences) -> None:
        """Add rows that somebody else wrote of other devices of the same round, in place."""
        if other.scale != self.scale:
            raise ValueError(f"scale {other.scale} cannot be added to {self.scale}")
        self.parts += other.parts

    def trained(self) -> NDArray[np.bool_]:
        """Bool [devices, vectors]."""
        return np.concatenate([part.trained for part in self.parts])

    def rows(self, numbers: int) -> Rows:
        """All rows, each a view of float32 [numbers] of its memory-mapped file.

        Raises:
            StorageError: A file cannot be read.
        """
        found: list[Vector] = []
        for part in self.parts:
            if len(part.trained):
                with storage_errors(part.path, "read the differences"):
                    shape = (len(part.trained), numbers)
                    found += list(np.memmap(part.path, "<f4", "r", shape=shape).view(np.ndarray))
        return found

    def delete(self) -> None:
        """They are merged, or not wanted any more.

        Raises:
            StorageError: A file cannot be deleted.
        """
        for part in self.parts:
            with storage_errors(part.path, "delete the differences"):
                part.path.unlink(missing_ok=True)


class DifferenceFile:
    """Where rows are written, one after the other.

    Args:
        path: The file; what is there is overwritten.
        vectors: What is in a row.
        scale: Of the round.

    Raises:
        StorageError: It cannot be made.
    """

    def __init__(self, path: Path, vectors: HeadVectors, scale: MergeScale) -> None:
        self._path = path
        self._vectors = vectors
        self._scale = scale
        self._trained: list[NDArray[np.bool_]] = []
        with storage_errors(path, "write the differences"):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"")

    def add(
        self, difference: Vector, mask: NDArray[np.bool_] | None, weight: Weight = PLAIN
    ) -> None:
        """Write one device's difference, scaled down by the factor of its weight: float32(float64(D) w).

        Args:
            difference: D, float32 [parameters], 0 where nothing trained.
            mask: Bool [parameters], which numbers it trained; None: all of them.
            weight: Its count is 1: robust rules do not weigh devices against each other.

        Raises:
            NumericsError: A number is NaN, infinite or not below the bound. Nothing is written.
            StorageError: The disk is full, or the like.
        """
        if weight.count != 1:
            raise ValueError(f"an update that counts {weight.count} times")
        if difference.shape != (self._vectors.layout.size,):
            raise ValueError(f"{difference.shape} numbers of {self._vectors.layout.size}")
        self._scale.check(difference)
        row = self._vectors.to_row(difference)
        if weight is not PLAIN:
            row = row.astype(np.float64) * weight.share
        self._write(row.astype("<f4", copy=False).tobytes())
        self._trained.append(self._vectors.trained(mask))

    def finished(self) -> Differences:
        """What was written; nothing may be added any more."""
        trained = np.array(self._trained, np.bool_).reshape(-1, len(self._vectors.sizes))
        return Differences(self._scale, (_Written(self._path, trained),))

    def _write(self, content: bytes) -> None:
        rest = memoryview(content)
        with (
            storage_errors(self._path, "write the differences"),
            # Open no longer than this: who is interrupted leaves nothing open behind.
            self._path.open("r+b", buffering=0) as file,
        ):
            file.seek(len(self._trained) * len(content))
            while rest:  # a call may write less than it is given
                rest = rest[file.write(rest) :]


def rows_of(rows: Rows, chosen: NDArray[np.bool_], place: slice) -> Sequence[Vector]:
    """One vector of those devices that trained it."""
    return [row[place] for row, trains in zip(rows, chosen.tolist(), strict=True) if trains]
