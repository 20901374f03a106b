"""All scalar products of the devices' vectors, the same bits on every machine.

A matrix product of floating-point numbers depends on the order in which a library adds, and so on its
version, the processor and the number of threads. Of small integers it does not: each vector is
rounded to at most 20 bits below its own largest number, products of such integers are added in float64
as long as no sum can pass 2^53, and those sums in int64. Nothing is ever rounded but the vectors, once.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from ravan_edge.merge.robust.blocks import Rows, gathered, in_turn, room

__all__ = ["scalar_products", "squared_distances"]

# Two more would be exact for 512 columns only, and a block of a hundred devices would be three products.
_MOST_BITS = 20
_INT64_BITS = 62
_FLOAT64_BITS = 53


def scalar_products(rows: Rows) -> NDArray[np.float64]:
    """G_ij = <x_i, x_j> of the rounded vectors, float64 [devices, devices].

    With M numbers: k = min(20, floor((62 - ceil(log2 M)) / 2)); e_i is the smallest integer with
    max |x_i| < 2^e_i, but at least -100; q_i = round_half_even(x_i 2^(k - e_i));
    G_ij = float64(sum of q_i q_j) 2^(e_i + e_j - 2 k).

    Args:
        rows: Float32 [devices, numbers], all finite.
    """
    from threadpoolctl import threadpool_limits  # devices never merge

    numbers = len(rows[0])
    bits = min(_MOST_BITS, (_INT64_BITS - (numbers - 1).bit_length()) // 2)
    exact = 1 << (_FLOAT64_BITS - 2 * bits)  # columns whose products add up exactly
    exponents = np.array([_exponent(row) for row in rows])
    factors = np.ldexp(np.float32(1.0), bits - exponents)
    total = np.zeros((len(rows), len(rows)), np.int64)
    adding = threading.Lock()

    def work(block: slice) -> None:
        small: NDArray[np.float32] = gathered(rows, block)
        small *= factors[:, None]
        q: NDArray[np.float64] = room("wide", small.shape, np.float64)
        np.copyto(q, np.rint(small, out=small))
        for begin in range(0, q.shape[1], exact):
            part = q[:, begin : begin + exact]
            found = (part @ part.T).astype(np.int64)
            with adding:
                np.add(total, found, out=total)

    # Blocks are shared out to processors here: a product of one is too small to be split once more.
    with threadpool_limits(1, "blas"):
        in_turn(rows, work)
    products: NDArray[np.float64] = np.ldexp(
        total.astype(np.float64), exponents[:, None] + exponents[None, :] - 2 * bits
    )
    return products


def squared_distances(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """||x_i - x_j||^2 = (G_ii + G_jj) - 2 G_ij, at least 0; float64 [devices, devices]."""
    squares = np.diagonal(products)
    distances: NDArray[np.float64] = squares[:, None] + squares[None, :]
    distances -= 2.0 * products
    return np.maximum(distances, 0.0, out=distances)


def _exponent(row: NDArray[np.float32]) -> int:
    largest = max(float(row.max()), -float(row.min()))
    return max(-100, int(np.frexp(largest)[1]))  # 2^(k - e) stays a float32
