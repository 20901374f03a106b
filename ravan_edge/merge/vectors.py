"""Which numbers a robust rule looks at together: one vector for each head, and one for all the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact import Role
from ravan_edge.methods import ParameterLayout, Piece

__all__ = ["HeadVectors"]


@dataclass(frozen=True)
class HeadVectors:
    """The vectors of a method.

    First the core of each (layer, head), in the order of the layout; then, as one, the task head and whatever
    else trains. Scales are in none: their differences are 0.

    Devices' vectors stand side by side in a **row**: all numbers but the scales, each vector in one piece.

    >>> from ravan_edge.artifact import TensorEntry
    >>> layout = ParameterLayout.from_table(
    ...     [TensorEntry(name="q.H", role=Role.CORE, shape=(2, 3, 3), layer="q"),
    ...      TensorEntry(name="q.s", role=Role.SCALE, shape=(2,), layer="q"),
    ...      TensorEntry(name="task_head.b", role=Role.TASK_HEAD, shape=(4,), layer=None)])
    >>> HeadVectors(layout).sizes
    (9, 9, 4)
    """

    layout: ParameterLayout

    @cached_property
    def _pieces(self) -> tuple[Piece, ...]:
        """Where each tensor's numbers are in the parameter vector (start) and in a row (begin)."""
        cores = [each for each in self.layout.segments if each.role is Role.CORE]
        others = [each for each in self.layout.segments if each.role not in {Role.CORE, Role.SCALE}]
        pieces, begin = [], 0
        for segment in [*cores, *others]:
            size = segment.stop - segment.start
            pieces.append(Piece(segment.start, begin, size))
            begin += size
        return tuple(pieces)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of each vector."""
        sizes: list[int] = []
        rest = 0
        for segment in self.layout.segments:
            size = segment.stop - segment.start
            if segment.role is Role.CORE:
                heads = segment.shape[0]
                sizes += [size // heads] * heads
            elif segment.role is not Role.SCALE:
                rest += size
        return (*sizes, rest) if rest else tuple(sizes)

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Int64 [vectors]: where each vector ends in a row."""
        return np.cumsum(self.sizes, dtype=np.int64)

    @property
    def numbers(self) -> int:
        """Of a row."""
        return sum(self.sizes)

    def places(self) -> Iterator[slice]:
        """Of each vector in a row."""
        begin = 0
        for size in self.sizes:
            yield slice(begin, begin + size)
            begin += size

    def to_row(self, vector: NDArray[np.generic]) -> NDArray[np.generic]:
        """The numbers of a parameter vector in the order of a row, a copy."""
        row = np.empty(self.numbers, vector.dtype)
        for start, begin, size in self._pieces:
            row[begin : begin + size] = vector[start : start + size]
        return row

    def from_row(self, row: NDArray[np.generic]) -> NDArray[np.generic]:
        """The inverse of :meth:`to_row`; scales are 0."""
        vector = np.zeros(self.layout.size, row.dtype)
        for start, begin, size in self._pieces:
            vector[start : start + size] = row[begin : begin + size]
        return vector

    def trained(self, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        """Bool [vectors], which of them a device trained.

        Args:
            mask: Bool [parameters], which numbers it trained: all of a vector or none; None: all.
        """
        if mask is None:
            return np.ones(len(self.sizes), np.bool_)
        found: NDArray[np.bool_] = self.to_row(mask)[self.ends - 1].astype(np.bool_)
        return found

    def spread(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Bool [parameters] from bool [vectors]: which numbers belong to these vectors."""
        return self.from_row(np.repeat(chosen, self.sizes)).astype(np.bool_)
