"""From the differences of devices to the next heads, as the settings say (docs/artifact.md, section 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact import Role
from ravan_edge.merge.clipping import clipped
from ravan_edge.merge.differences import DifferenceFile, Differences, rows_of
from ravan_edge.merge.exact import ExactSum, MergeScale
from ravan_edge.merge.merge_settings import MergeName, MergeSettings
from ravan_edge.merge.robust import (
    Rows,
    coordinate_median,
    geometric_median,
    krum,
    multi_krum,
    trimmed_mean,
)
from ravan_edge.merge.server_optimizer import Moments
from ravan_edge.merge.vectors import HeadVectors
from ravan_edge.merge.weight import PLAIN, Weight
from ravan_edge.methods import Method, Vector

__all__ = ["Gathered", "Gathering", "Merged", "combined", "merge"]

Gathered = ExactSum | Differences
"""What a merge is made of. Those of several processes are combined."""


@dataclass(frozen=True, eq=False)
class Merged:
    """What came out of a merge.

    Attributes:
        heads: Float32 [parameters].
        moments: What the server's optimiser remembers; None: there is none.
        kept: How many vectors (see :class:`HeadVectors`) kept their value, since fewer devices trained them
            than the rule needs: with the mean, nobody.
    """

    heads: Vector
    moments: Moments | None
    kept: int


class Gathering:
    """Takes one difference after the other.

    Args:
        settings: How they are merged.
        method: Of the artifact.
        scale: Of the round.
        path: Where differences are written, by rules that must see them all; overwritten.

    Raises:
        StorageError: The file cannot be made.
    """

    def __init__(
        self, settings: MergeSettings, method: Method, scale: MergeScale, path: Path
    ) -> None:
        self._most = settings.max_norm
        self._scale = scale
        self._into: ExactSum | DifferenceFile
        if settings.is_robust:
            self._into = DifferenceFile(path, HeadVectors(method.layout), scale)
        else:
            self._into = ExactSum.empty(method.layout.size, scale)

    def add(
        self, difference: Vector, mask: NDArray[np.bool_] | None, weight: Weight = PLAIN
    ) -> None:
        """Add one device's difference, clipped where there is a largest norm.

        Args:
            difference: Float32 [parameters], 0 where nothing trained.
            mask: Bool [parameters], which numbers it trained; None: all of them.
            weight: How much it counts.

        Raises:
            NumericsError: A number is NaN, infinite or not below the bound, also if it would be clipped.
                Nothing is added.
            StorageError: The disk is full, or the like.
        """
        if self._most is not None:
            self._scale.check(difference)
            difference = clipped(difference, self._most)
        self._into.add(difference, mask, weight)

    def finished(self) -> Gathered:
        """All that was added; nothing may be added any more."""
        return self._into if isinstance(self._into, ExactSum) else self._into.finished()


def combined(parts: Sequence[Gathered]) -> Gathered:
    """What several processes gathered of different devices, as one; the first of them is changed.

    Raises:
        ValueError: They are not of one round.
    """
    first, *others = parts
    for other in others:
        match first, other:
            case (ExactSum(), ExactSum()) | (Differences(), Differences()):
                first.combine(other)  # type: ignore[arg-type]
            case _:
                raise ValueError("a sum and differences are not of one round")
    return first


def merge(
    settings: MergeSettings,
    method: Method,
    heads: Vector,
    gathered: Gathered,
    moments: Moments | None = None,
) -> Merged:
    """The next heads.

    Args:
        settings: How to merge; those with which was gathered.
        method: Of the artifact.
        heads: Float32 [parameters].
        gathered: The differences, or their sum.
        moments: Of the merge before; None, or of another optimiser: it starts anew.

    Files of differences are deleted once they are merged.

    Raises:
        StorageError: One cannot be read or deleted.
    """
    vectors = HeadVectors(method.layout)
    optimizer = settings.optimizer()
    if isinstance(gathered, ExactSum):
        trained = gathered.trainers > 0
        kept = int(np.count_nonzero(~vectors.trained(trained)))
        if optimizer is None:
            return Merged(gathered.apply(heads), None, kept)
        difference = gathered.mean()
    else:
        difference, enough = _robust_difference(settings, vectors, gathered)
        trained = vectors.spread(enough)
        kept = int(np.count_nonzero(~enough))
        gathered.delete()
    if optimizer is None:
        return Merged(_added(heads, difference, trained), None, kept)
    trained &= ~method.layout.mask(Role.SCALE)
    if moments is None or moments.optimizer is not settings.server_optimizer:
        moments = optimizer.init(len(heads))
    moments, step = optimizer.apply(moments, difference, trained)
    return Merged(_added(heads, step, trained), moments, kept)


def _added(heads: Vector, step: NDArray[np.float64], where: NDArray[np.bool_]) -> Vector:
    """H <- float32(float64(H) + step); the old bits elsewhere."""
    merged = heads.copy()
    np.add(heads, step, out=step)
    np.copyto(merged, step, where=where, casting="same_kind")
    return merged


def _robust_difference(
    settings: MergeSettings, vectors: HeadVectors, gathered: Differences
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Float64 [parameters], 0 where nothing is merged; bool [vectors], whom enough devices trained."""
    trained = gathered.trained()
    rows = gathered.rows(vectors.numbers)
    enough = np.count_nonzero(trained, axis=0) >= settings.least_trainers
    found = np.zeros(vectors.numbers, np.float64)
    for number, place in enumerate(vectors.places()):
        if enough[number]:
            chosen = rows_of(rows, trained[:, number], place)
            found[place] = _one_vector(settings, chosen, gathered.scale)
    return vectors.from_row(found).astype(np.float64, copy=False), enough


def _one_vector(settings: MergeSettings, rows: Rows, scale: MergeScale) -> NDArray[np.float64]:
    match settings.merge:
        case MergeName.MEDIAN:
            return coordinate_median(rows)
        case MergeName.TRIMMED_MEAN:
            return trimmed_mean(rows, settings.bears, scale)
        case MergeName.KRUM:
            return krum(rows, settings.bears)
        case MergeName.MULTI_KRUM:
            return multi_krum(rows, settings.bears, scale)
        case MergeName.GEOMETRIC_MEDIAN:
            return geometric_median(rows)
        case MergeName.MEAN:
            raise ValueError("the mean needs no rows")
