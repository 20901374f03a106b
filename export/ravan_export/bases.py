"""The frozen bases A_i [r, n] and B_i [m, r]: the paper's four ways to draw them, seeded.

Numbers are drawn in float64 from the integer generator (docs/generator.md, purpose ``bases``: ``device`` is
the layer's place in the manifest, ``index`` is ``2 head`` for A and ``2 head + 1`` for B), so the same
seed gives the same bytes on one machine and set of libraries.

All four have the scale of Gram-Schmidt, rows of A and columns of B with (expected) norm 1, so that
one learning rate serves all: sigma_A = 1 / sqrt(n), sigma_B = 1 / sqrt(m).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.manifest import Layer
from ravan_edge.generator import Purpose, Stream

__all__ = ["Bases", "Init", "make_bases", "outlined_bases"]

Matrix = NDArray[np.float64]


class Init(StrEnum):
    """How bases are drawn."""

    RANDOM_NORMAL = "random-normal"
    GRAM_SCHMIDT = "gram-schmidt"
    CONSTANT = "constant"
    SHARED_SUBSPACE = "shared-subspace"


@dataclass(frozen=True, slots=True)
class Bases:
    """The bases of one layer.

    Args:
        a: A, float32 [h, r, n].
        bt: B transposed, float32 [h, r, m].
        notice: What a person should know about them; empty: nothing.
    """

    a: NDArray[np.float32]
    bt: NDArray[np.float32]
    notice: str = ""


def _normal(seed: int, place: int, index: int, rows: int, columns: int) -> Matrix:
    stream = Stream(seed, Purpose.BASES, device=place, index=index)
    return stream.normal(rows * columns).reshape(rows, columns)


def _side(seed: int, place: int, layer: Layer, side: int) -> Matrix:
    """Independent standard normals for A (side 0) or B^T (side 1), [h, r, n or m]."""
    width = layer.outputs if side else layer.inputs
    return np.stack(
        [_normal(seed, place, 2 * head + side, layer.rank, width) for head in range(layer.heads)]
    )


def _orthonormal_rows(rows: Matrix) -> Matrix:
    """Gram-Schmidt on rows, through the QR decomposition with a positive diagonal (unique)."""
    q, r = np.linalg.qr(rows.T)
    return (q * np.where(np.diag(r) < 0, -1.0, 1.0)).T


def _gram_schmidt(normals: Matrix) -> tuple[Matrix, int]:
    """As many heads as fit with orthonormal rows among all of them; how many do not fit."""
    heads, rank, width = normals.shape
    fitting = min(heads, width // rank)
    result = normals / math.sqrt(width)
    if fitting:
        stacked = normals[:fitting].reshape(fitting * rank, width)
        result[:fitting] = _orthonormal_rows(stacked).reshape(fitting, rank, width)
    return result, heads - fitting


def _shared(normals: Matrix, mixers: Matrix) -> Matrix:
    """R_i N for one N: every head spans the same subspace."""
    mixed: Matrix = mixers @ (normals[0] / math.sqrt(normals.shape[2]))
    return mixed


def make_bases(layer: Layer, place: int, init: Init, seed: int) -> Bases:
    """Draw the bases of one layer.

    Args:
        layer: Its sizes.
        place: Its number in the manifest's list of layers.
        init: The way.
        seed: The export's seed.
    """
    a, bt = (_side(seed, place, layer, side) for side in (0, 1))
    notice = ""
    if init is Init.GRAM_SCHMIDT:
        a, missing_a = _gram_schmidt(a)
        bt, missing_b = _gram_schmidt(bt)
        if missing_a or missing_b:
            notice = (
                f"{layer.name}: {layer.heads} heads of rank {layer.rank} do not fit into "
                f"{layer.outputs} x {layer.inputs}: Gram-Schmidt fell back to random normal rows "
                f"for {missing_a} heads of A and {missing_b} of B"
            )
    elif init is Init.SHARED_SUBSPACE:
        # Random square matrices are invertible with probability 1; entries of variance 1 / r keep
        # the norm of the rows of R_i N. A takes R_i from the left, B from the right: B^T = R^T M^T.
        first = 2 * layer.heads
        mixers = np.stack(
            [
                _normal(seed, place, first + head, layer.rank, layer.rank) / math.sqrt(layer.rank)
                for head in range(layer.heads)
            ]
        )
        a, bt = _shared(a, mixers), _shared(bt, mixers.transpose(0, 2, 1))
    else:
        if init is Init.CONSTANT:
            a, bt = (np.repeat(side[:1], layer.heads, axis=0) for side in (a, bt))
        a, bt = a / math.sqrt(layer.inputs), bt / math.sqrt(layer.outputs)
    return Bases(a.astype(np.float32), bt.astype(np.float32), notice)


def outlined_bases(layer: Layer) -> Bases:
    """Arrays of the right shapes without memory: one zero, seen at every place."""
    zero = np.zeros((), np.float32)
    shape = (layer.heads, layer.rank)
    return Bases(
        np.broadcast_to(zero, (*shape, layer.inputs)),
        np.broadcast_to(zero, (*shape, layer.outputs)),
    )
