"""Ravan in numpy float64, as the paper writes it: the slow twin of ``methods.ravan`` + ``merge``.

One adapted layer W [m, n], heads B_i [m, r], H_i [r, r], A_i [r, n], a squared loss. Nothing of the
kit is used here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def effective(W: Array, A: Array, B: Array, H: Array, s: Array) -> Array:
    """W + sum_i s_i B_i H_i A_i (eq. 4)."""
    return W + sum(s[i] * B[i] @ H[i] @ A[i] for i in range(len(s)))


def device_round(
    W: Array,
    A: Array,
    B: Array,
    H: Array,
    batches: list[tuple[Array, Array]],
    lr: float,
    trained: list[int],
) -> dict[int, Array]:
    """Plain SGD from s = 1 on the mean of 1/2 ||y - target||^2: s_i H_i of the trained heads."""
    H, s = H.copy(), np.ones(len(H))
    for x, target in batches:
        residual = x @ effective(W, A, B, H, s).T - target
        dW = residual.T @ x / len(x)
        steps = {}
        for i in trained:
            core = B[i].T @ dW @ A[i].T
            steps[i] = (s[i] * core, np.sum(H[i] * core))
        for i, (dH, ds) in steps.items():
            H[i] -= lr * dH
            s[i] -= lr * ds
    return {i: s[i] * H[i] for i in trained}


def merge(H: Array, uploads: list[dict[int, Array]]) -> Array:
    """H_i <- mean of s_i H_i over the devices that trained head i; others keep their value."""
    merged = H.copy()
    for i in range(len(H)):
        mine = [upload[i] for upload in uploads if i in upload]
        if mine:
            merged[i] = sum(mine) / len(mine)
    return merged
