"""What heads add to each adapted layer, as two factors: W' = W + B A, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.manifest import Layer
from ravan_edge.artifact.opening import Artifact
from ravan_edge.errors import NumericsError, UsageError

__all__ = ["Factors", "factors", "fold", "truncated"]

Heads = Mapping[str, NDArray[Any]]
Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Factors:
    """What is added to one layer's weight [m, n]: ``b @ a``.

    Args:
        layer: Which one.
        b: Float64 [m, R].
        a: Float64 [R, n].
    """

    layer: Layer
    b: Matrix
    a: Matrix

    @property
    def rank(self) -> int:
        """R, how many rows and columns the factors share."""
        return int(self.a.shape[0])

    @property
    def product(self) -> Matrix:
        """Float64 [m, n]."""
        return self.b @ self.a


def factors(artifact: Artifact, heads: Heads, layer: Layer) -> Factors:
    """The factors of one layer.

    ``ravan``: sum_i s_i B_i H_i A_i has the A_i one above the other as ``a`` [h r, n], and s_i B_i H_i
    side by side as ``b`` [m, h r]. ``fedit``: lora_A, and alpha / r times lora_B.

    Args:
        artifact: Holds the bases.
        heads: Saved heads: every tensor of the tensor table.
        layer: One of the manifest's.
    """
    name = layer.name
    if artifact.manifest.method.name == "ravan":
        a = artifact.base[f"{name}.A"].astype(np.float64)  # [h, r, n]
        bt = artifact.base[f"{name}.Bt"].astype(np.float64)  # [h, r, m]
        core = heads[f"{name}.H"].astype(np.float64)
        core = core * heads[f"{name}.s"].astype(np.float64)[:, None, None]
        b = np.einsum("hrm,hrk->mhk", bt, core)
        return Factors(layer, b.reshape(layer.outputs, -1), a.reshape(-1, layer.inputs))
    a = heads[f"{name}.lora_A"].astype(np.float64)
    b = heads[f"{name}.lora_B"].astype(np.float64)
    alpha = artifact.manifest.method.alpha or layer.rank
    return Factors(layer, b * (alpha / layer.rank), a)


def fold(weight: NDArray[Any], added: Factors) -> Matrix:
    """W + B A as float64 [m, n], to be rounded once by the caller.

    Raises:
        NumericsError: A value is too large for float32.
    """
    merged: Matrix = weight.astype(np.float64) + added.product
    if not np.abs(merged).max(initial=0.0) <= float(np.finfo(np.float32).max):
        raise NumericsError(
            "a merged weight is NaN or too large",
            where=added.layer.name,
            hint="take an earlier version of the heads; training needs a lower --lr",
        )
    return merged


def truncated(added: Factors, rank: int) -> tuple[Factors, float]:
    """The best approximation of rank ``rank``, and its error ||found - exact|| / ||exact||.

    By QR of both factors and an SVD of the small product, so that no [m, n] matrix is decomposed.
    Each singular value goes half to either side. A layer that has no more than ``rank`` stays exact.

    Raises:
        UsageError: ``rank`` is less than 1.
    """
    if rank < 1:
        raise UsageError(f"{rank} is out of range, expected at least 1", where="--rank")
    if rank >= added.rank:
        return added, 0.0
    qb, rb = np.linalg.qr(added.b)
    qa, ra = np.linalg.qr(added.a.T)
    u, singular, vt = np.linalg.svd(rb @ ra.T)
    count = min(rank, singular.size)
    root = np.sqrt(singular[:count])
    b, a = qb @ u[:, :count] * root, root[:, None] * (vt[:count] @ qa.T)
    whole = float(np.linalg.norm(singular))
    lost = float(np.linalg.norm(singular[count:]))
    return Factors(added.layer, b, a), lost / whole if whole else 0.0
