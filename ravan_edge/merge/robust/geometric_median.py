"""The geometric median, by the smoothed Weiszfeld algorithm.

Pillutla, Kakade, Harchaoui, Robust Aggregation for Federated Learning, IEEE TSP 2022, algorithm 2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ravan_edge.merge.robust.blocks import Rows, by_content, mapped_blocks, room
from ravan_edge.merge.robust.products import scalar_products

__all__ = ["SMOOTHING", "geometric_median", "median_weights"]

SMOOTHING = 1e-6
"""The paper's nu: nearer than this, a vector counts as if it were that far away."""

_MOST_ITERATIONS = 1000
_TOLERANCE = 1e-9


def geometric_median(
    rows: Rows, *, smoothing: float = SMOOTHING, iterations: int | None = None
) -> NDArray[np.float64]:
    """The point with the smallest sum of distances to the vectors.

    Args:
        rows: Float32 [devices, numbers], all finite.
        smoothing: nu.
        iterations: How many; None: until the weights stand still (see :func:`median_weights`).

    Returns:
        Float64 [numbers]: sum of w_i x_i in the order of the vectors' bytes, added as :func:`_folded` says.
    """
    ordered = by_content(rows)
    weights = median_weights(scalar_products(ordered), smoothing, iterations)[:, None]

    def work(block: NDArray[np.float32]) -> NDArray[np.float64]:
        wide: NDArray[np.float64] = room("wide", block.shape, np.float64)
        np.copyto(wide, block)
        wide *= weights
        return _folded(wide)

    return mapped_blocks(ordered, work)


def median_weights(
    products: NDArray[np.float64], smoothing: float, iterations: int | None
) -> NDArray[np.float64]:
    """The weights of the vectors in their geometric median; they add up to 1.

    From z = 0 on: b_i = 1 / max(nu, ||x_i - z||), w_i = b_i / sum of b, z = sum of w_i x_i. Every z is a
    weighted sum, so ||x_i - z||^2 = (G_ii - 2 (G w)_i) + <w, G w> needs no more than the scalar products: the
    vectors are read twice, however many iterations there are. All sums are added one after the other.

    Args:
        products: G, float64 [devices, devices].
        smoothing: nu.
        iterations: How many; None: until the sum of |change of w_i| ||x_i|| is at most 1e-9 of the sum of
            w_i ||x_i||, at most 1000.
    """
    squares = np.diagonal(products)
    lengths = np.sqrt(squares)
    distances = lengths
    weights = np.zeros(len(products))
    for _ in range(_MOST_ITERATIONS if iterations is None else iterations):
        closeness = 1.0 / np.maximum(smoothing, distances)
        before, weights = weights, closeness / _sum(closeness)
        moved = _sum(np.abs(weights - before) * lengths)
        if iterations is None and moved <= _TOLERANCE * _sum(weights * lengths):
            break
        shares = _sum(products * weights)
        spread = (squares - 2.0 * shares) + _sum(weights * shares)
        distances = np.sqrt(np.maximum(spread, 0.0))
    return weights


def _folded(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of all rows: the last half of them is added to the first, until one is left; overwritten.

    So each number's sum has one order, and numpy is called seven times for a hundred rows.
    """
    count = len(terms)
    while count > 1:
        half = count // 2
        terms[:half] += terms[count - half : count]
        count -= half
    total: NDArray[np.float64] = terms[0]
    return total


def _sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Along the last axis, one after the other: numpy's own sum takes an order that is not promised."""
    total: NDArray[np.float64] = np.add.accumulate(values, axis=-1)[..., -1]
    return total
