"""The parameter vector: all trainable tensors flattened one behind the other, in the manifest's order.

Optimisers, clipping and merges are a handful of numpy calls on one float32 vector, whatever the
number of tensors; views give the tensors back their names and shapes without a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.manifest import Role, TensorEntry
from ravan_edge.errors import ArtifactError

__all__ = ["ParameterLayout", "Piece", "Segment", "Vector"]

Vector = NDArray[np.float32]


class Piece(NamedTuple):
    """Numbers that lie one behind the other, in other data as in the parameter vector.

    Attributes:
        start: Of the first one in the vector.
        begin: Of the first one in the data.
        size: How many.
    """

    start: int
    begin: int
    size: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Where one tensor of the tensor table lies in the parameter vector."""

    name: str
    role: Role
    shape: tuple[int, ...]
    layer: str | None
    start: int
    stop: int

    @property
    def place(self) -> slice:
        """The segment's slice of the vector."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class ParameterLayout:
    """Names, shapes and places of all trainable tensors.

    >>> layout = ParameterLayout.from_table(
    ...     [TensorEntry(name="q.H", role=Role.CORE, shape=(2, 3, 3), layer="q"),
    ...      TensorEntry(name="q.s", role=Role.SCALE, shape=(2,), layer="q")])
    >>> layout.size, layout.segment("q.s").place
    (20, slice(18, 20, None))
    """

    segments: tuple[Segment, ...]

    @classmethod
    def from_table(cls, table: Iterable[TensorEntry]) -> ParameterLayout:
        """The layout of a manifest's tensor table."""
        segments = []
        start = 0
        for entry in table:
            stop = start + entry.size
            segments.append(Segment(entry.name, entry.role, entry.shape, entry.layer, start, stop))
            start = stop
        return cls(tuple(segments))

    @property
    def size(self) -> int:
        """How many numbers train."""
        return self.segments[-1].stop if self.segments else 0

    @cached_property
    def _by_name(self) -> dict[str, Segment]:
        return {segment.name: segment for segment in self.segments}

    def segment(self, name: str) -> Segment:
        """The segment of a tensor.

        Raises:
            KeyError: There is no such tensor.
        """
        return self._by_name[name]

    def mask(self, *roles: Role) -> NDArray[np.bool_]:
        """Bool [size]: which numbers belong to tensors of these roles."""
        mask = np.zeros(self.size, dtype=np.bool_)
        for segment in self.segments:
            if segment.role in roles:
                mask[segment.place] = True
        return mask

    def views(self, vector: Vector) -> dict[str, Vector]:
        """The tensors of a vector, by name: views, in their shapes."""
        return {
            segment.name: vector[segment.place].reshape(segment.shape) for segment in self.segments
        }

    def pack(self, tensors: Mapping[str, NDArray[np.float32]]) -> Vector:
        """One vector, float32 [size], from the tensors of the table.

        Raises:
            ArtifactError: A tensor is missing, or has another shape.
        """
        vector = np.empty(self.size, dtype=np.float32)
        for segment in self.segments:
            tensor = tensors.get(segment.name)
            if tensor is None or tensor.shape != segment.shape:
                found = "nothing" if tensor is None else str(list(tensor.shape))
                raise ArtifactError(
                    f"expected a tensor of shape {list(segment.shape)}, found {found}",
                    where=segment.name,
                )
            vector[segment.place] = tensor.reshape(-1)
        return vector
