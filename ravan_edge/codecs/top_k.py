"""Codec ``top-k``: the k numbers that are largest in size, as they are; the others are read as 0.

The norm of what is left out is at most sqrt(1 - k / n) of the whole (Stich et al., Sparsified SGD with
Memory, NeurIPS 2018, lemma A.1). 8 bytes a number that is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravan_edge.codecs.codec import (
    NUMBERS,
    CodecName,
    CodedTensors,
    Numbers,
    TensorForms,
    check_finite,
    refused,
)
from ravan_edge.generator import Stream

__all__ = ["LARGEST_SHARE", "TopK"]

LARGEST_SHARE = 0.5
"""With more, fp32 would be smaller."""

_INDICES = "indices"


@dataclass(frozen=True, slots=True)
class TopK:
    """The codec; see :class:`ravan_edge.codecs.codec.Codec`.

    Args:
        share: Of the numbers that are kept, above 0, at most ``LARGEST_SHARE``.

    Raises:
        ValueError: It is not.
    """

    share: float = LARGEST_SHARE

    def __post_init__(self) -> None:
        if not 0 < self.share <= LARGEST_SHARE:
            raise ValueError(f"a share of {self.share}, expected above 0, at most {LARGEST_SHARE}")

    @property
    def name(self) -> CodecName:
        """As in the metadata of an update."""
        return CodecName.TOP_K

    @property
    def biased(self) -> bool:
        """What is small is always left out."""
        return True

    def kept(self, count: int) -> int:
        """k: floor(share n), the product rounded to float64; of any numbers at least 1.

        >>> TopK(0.1).kept(1005), TopK(0.1).kept(3), TopK(0.1).kept(0)
        (100, 1, 0)
        """
        return min(count, max(1, int(self.share * count)))

    def forms(self, count: int) -> TensorForms:
        """Where they are, I32 [k], ascending, and what they are, F32 [k]."""
        return _forms(self.kept(count))

    def expected(
        self, count: int, shapes: Mapping[str, tuple[int, ...]], where: str
    ) -> TensorForms:
        """For any k that a share can make: how many a device keeps is its business.

        Raises:
            ArtifactError: There is no such k.
        """
        shape, most = shapes.get(_INDICES, ()), TopK(LARGEST_SHARE).kept(count)
        if len(shape) != 1 or not min(1, count) <= shape[0] <= most:
            raise refused(
                f"shape {list(shape)}, expected {min(1, count)} to {most} indices", _INDICES, where
            )
        return _forms(shape[0])

    def encode(self, numbers: Numbers, stream: Stream) -> CodedTensors:
        """Keep the largest; of equal ones those with lower indices.

        Raises:
            NumericsError: A number is not finite.
        """
        check_finite(numbers)
        indices = _largest(np.abs(numbers), self.kept(len(numbers)))
        return {_INDICES: indices.astype(np.int32), NUMBERS: numbers[indices]}

    def decode(self, tensors: CodedTensors, out: Numbers, where: str) -> None:
        """Zeros, and what was kept.

        Raises:
            ArtifactError: Indices that do not ascend, or lie outside.
        """
        indices = tensors[_INDICES]
        if indices.size:
            if indices[0] < 0 or indices[-1] >= len(out):
                raise refused(
                    f"{int(indices[0])} to {int(indices[-1])}, expected 0 to {len(out) - 1}",
                    _INDICES,
                    where,
                )
            # Of ascending numbers the ends are the bounds of all.
            wrong = indices[1:] <= indices[:-1]
            if wrong.any():
                place = int(np.argmax(wrong))
                raise refused(
                    f"{int(indices[place])} is followed by {int(indices[place + 1])}, expected "
                    "ascending indices",
                    _INDICES,
                    where,
                )
        out[...] = 0
        out[indices] = tensors[NUMBERS]


def _forms(kept: int) -> TensorForms:
    return {_INDICES: ("I32", (kept,)), NUMBERS: ("F32", (kept,))}


def _largest(sizes: Numbers, kept: int) -> NDArray[np.int64]:
    """Indices of the ``kept`` largest, ascending; of equal ones the first."""
    if not kept:
        return np.empty(0, np.int64)
    least = np.partition(sizes, len(sizes) - kept)[len(sizes) - kept]
    chosen = sizes > least
    equal = np.flatnonzero(sizes == least)
    chosen[equal[: kept - int(np.count_nonzero(chosen))]] = True
    return np.flatnonzero(chosen)
