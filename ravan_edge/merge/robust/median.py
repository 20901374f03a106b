"""The median of each number by itself.

Yin et al., Byzantine-Robust Distributed Learning, ICML 2018, definition 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ravan_edge.merge.robust.blocks import Rows, mapped_blocks
from ravan_edge.merge.robust.sorting import sorted_columns

__all__ = ["coordinate_median"]


def coordinate_median(rows: Rows) -> NDArray[np.float64]:
    """The middle one of each number's values; of an even number of them, half the sum of the middle two.

    Args:
        rows: Float32 [devices, numbers], all finite.

    Returns:
        Float64 [numbers]; the sum of the two is rounded once, to float64.
    """
    devices = len(rows)
    low, high = (devices - 1) // 2, devices // 2

    def work(block: NDArray[np.float32]) -> NDArray[np.float64]:
        found = sorted_columns(block)
        middle: NDArray[np.float64] = np.add(found[:, low], found[:, high], dtype=np.float64)
        middle *= 0.5
        return middle

    return mapped_blocks(rows, work)
