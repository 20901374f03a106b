"""The mean of each number without its largest and smallest values.

Yin et al., Byzantine-Robust Distributed Learning, ICML 2018, definition 2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ravan_edge.merge.exact import MergeScale
from ravan_edge.merge.robust.blocks import Rows, mapped_blocks, room
from ravan_edge.merge.robust.sorting import sorted_columns

__all__ = ["trimmed_mean"]


def trimmed_mean(rows: Rows, trimmed: int, scale: MergeScale) -> NDArray[np.float64]:
    """Of each number the mean of all values but the ``trimmed`` largest and the ``trimmed`` smallest.

    The sum is that of the exact merge, in integers: with ``trimmed`` 0 the result is its mean, bit for bit.

    Args:
        rows: Float32 [devices, numbers], all below the bound of the scale.
        trimmed: F, fewer than half of the devices.
        scale: Of the merge.

    Returns:
        Float64 [numbers].

    Raises:
        ValueError: Nothing would be left.
    """
    kept = len(rows) - 2 * trimmed
    if trimmed < 0 or kept < 1:
        raise ValueError(f"{trimmed} of {len(rows)} values cannot be trimmed at both ends")

    def work(block: NDArray[np.float32]) -> NDArray[np.float64]:
        middle = sorted_columns(block)[:, trimmed : trimmed + kept]
        largest = max(float(middle[:, -1].max()), -float(middle[:, 0].min()))
        return scale.mean(middle, largest, 1, room("wide", middle.shape, np.float64))

    return mapped_blocks(rows, work)
