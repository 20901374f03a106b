"""Sorting each number's values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ravan_edge.merge.robust.blocks import room

__all__ = ["sorted_columns"]


def sorted_columns(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """Float32 [columns, devices], ascending in each line.

    Turned first, since numpy's vectorised sort wants the values of a column side by side. To sort them all is
    faster than numpy's partition, up to several hundred devices.

    Args:
        block: Float32 [devices, columns].

    Returns:
        In this thread's room: the next call overwrites it.
    """
    turned: NDArray[np.float32] = room("turned", block.shape[::-1], np.float32)
    np.copyto(turned, block.T)
    turned.sort(axis=1)
    return turned
