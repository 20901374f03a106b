"""The most that one device can move the heads: its whole difference is scaled down to a largest norm."""

from __future__ import annotations

import math

import numpy as np

from ravan_edge.methods import Vector

__all__ = ["clipped", "norm"]

_BLOCK = 65_536


def norm(difference: Vector) -> float:
    """The Euclidean norm of all numbers: squares in float64, added one after the other.

    Args:
        difference: Float32 [parameters].
    """
    total = 0.0
    for begin in range(0, len(difference), _BLOCK):
        squares = difference[begin : begin + _BLOCK].astype(np.float64)
        np.multiply(squares, squares, out=squares)  # exact: twice 24 bits
        squares[0] += total
        # numpy's sum takes an order that is not promised; this one is one after the other.
        total = float(np.add.accumulate(squares, out=squares)[-1])
    return math.sqrt(total)


def clipped(difference: Vector, most: float) -> Vector:
    """float32(float64(D) c) with c = most / ||D||, where that is below 1; else D itself.

    Args:
        difference: D, float32 [parameters], all finite: all heads and the task head together.
        most: The largest norm.
    """
    length = norm(difference)
    if length <= most:
        return difference
    return (difference.astype(np.float64) * (most / length)).astype(np.float32)
