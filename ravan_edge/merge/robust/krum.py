"""Krum and multi-Krum (Blanchard et al., Machine Learning with Adversaries, NeurIPS 2017)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ravan_edge.merge.exact import MergeScale
from ravan_edge.merge.robust.blocks import Rows, by_content, mapped_blocks, room
from ravan_edge.merge.robust.products import scalar_products, squared_distances

__all__ = ["krum", "multi_krum"]


def krum(rows: Rows, byzantine: int, *, neighbours: int | None = None) -> NDArray[np.float64]:
    """The vector that is nearest to its nearest neighbours: the lowest sum of squared distances to them.

    Args:
        rows: Float32 [devices, numbers], all finite.
        byzantine: f, the attackers it bears: 2 f + 2 < devices.
        neighbours: How many; default: devices - f - 2, as in section 4 of the paper.

    Returns:
        Float64 [numbers]: one of the vectors. Of several with the same score, the first by its bytes.

    Raises:
        ValueError: There are too few devices.
    """
    ordered = by_content(rows)
    best = int(np.argmin(_scores(ordered, byzantine, neighbours)))  # the first of the lowest
    return ordered[best].astype(np.float64) + 0.0


def multi_krum(
    rows: Rows,
    byzantine: int,
    scale: MergeScale,
    *,
    neighbours: int | None = None,
    kept: int | None = None,
) -> NDArray[np.float64]:
    """The mean of the vectors with the lowest scores (section 5 of the paper), summed as in the exact merge.

    Args:
        rows: Float32 [devices, numbers], all below the bound of the scale.
        byzantine: f, as for :func:`krum`.
        scale: Of the merge.
        neighbours: As for :func:`krum`.
        kept: m, how many; default: devices - f.

    Returns:
        Float64 [numbers].

    Raises:
        ValueError: There are too few devices.
    """
    ordered = by_content(rows)
    count = len(rows) - byzantine if kept is None else kept
    scores = _scores(ordered, byzantine, neighbours)
    chosen = [ordered[index] for index in np.argsort(scores, kind="stable")[:count]]

    def work(block: NDArray[np.float32]) -> NDArray[np.float64]:
        largest = max(float(block.max()), -float(block.min()))
        return scale.mean(block, largest, 0, room("wide", block.shape, np.float64))

    return mapped_blocks(chosen, work)


def _scores(rows: Rows, byzantine: int, neighbours: int | None) -> NDArray[np.float64]:
    """Float64 [devices]: squared distances to the nearest others, added in ascending order."""
    devices = len(rows)
    nearest = devices - byzantine - 2 if neighbours is None else neighbours
    if byzantine < 0 or not 1 <= nearest < devices:
        raise ValueError(f"Krum for {byzantine} attackers among {devices} devices")
    distances = squared_distances(scalar_products(rows))
    np.fill_diagonal(distances, np.inf)
    distances.sort(axis=1)
    scores: NDArray[np.float64] = np.add.accumulate(distances[:, :nearest], axis=1)[:, -1]
    return scores
