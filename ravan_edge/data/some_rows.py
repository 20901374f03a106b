"""Some rows of a dataset, as a dataset of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravan_edge.data.batches import Batch, Draw
from ravan_edge.data.examples import Dataset
from ravan_edge.errors import UsageError

__all__ = ["SomeRows", "part_of"]

_PART = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")


@dataclass(frozen=True)
class SomeRows:
    """Some rows of another dataset, in an order of their own.

    Args:
        everything: The other dataset.
        rows: Int64 [rows], which ones.
    """

    everything: Dataset
    rows: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int32]:
        """Int32 [rows]."""
        return self.everything.labels[self.rows]

    @property
    def users(self) -> NDArray[np.int32] | None:
        """Int32 [rows]; None: the rows have none."""
        users = self.everything.users
        return None if users is None else users[self.rows]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Int64 [rows], tokens of each."""
        return self.everything.lengths[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: NDArray[np.int64], draw: Draw | None = None) -> Batch:
        """A mini-batch of these rows."""
        return self.everything.batch(self.rows[rows], draw)


def part_of(text: str, count: int) -> NDArray[np.int64]:
    """Every N-th row from the I-th on, int64 [rows], for a part written as ``I/N``.

    Raises:
        UsageError: It is none, or it has no rows.

    >>> part_of("2/3", 8).tolist()
    [1, 4, 7]
    """
    match = _PART.fullmatch(text)
    first, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= first <= parts:
        raise UsageError(
            f"{text[:40]!r} is no part", where="--part", hint="write it like 1/3, 2/3 or 3/3"
        )
    if first > count:
        raise UsageError(
            f"part {text} of {count} rows has none", where="--part", hint="use fewer parts"
        )
    return np.arange(first - 1, count, parts, dtype=np.int64)
