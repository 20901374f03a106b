"""Which heads a device trains in a round: K of h in each layer (paper, section on weak devices)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ravan_edge.generator import Purpose, Stream
from ravan_edge.methods.method import HeadIndices

__all__ = ["HeadScore", "choose_heads"]


class HeadScore(StrEnum):
    """How heads are ranked: at random, by the norm of s_i H_i, or by the norm of its gradient."""

    RANDOM = "random"
    WEIGHT = "weight"
    GRADIENT = "gradient"


def choose_heads(
    norms: Mapping[str, NDArray[np.float64]] | None,
    layers: Mapping[str, int],
    count: int,
    *,
    seed: int,
    round: int,
    device: int,
) -> dict[str, HeadIndices]:
    """The ``count`` heads of each layer with the largest norms, ascending, int32 [count].

    Args:
        norms: [h] for each layer; None chooses at random.
        layers: h of each layer, in the manifest's order.
        count: K, 1 .. h.
        seed, round, device: Address of the stream. It decides alone when there are no norms, and
            breaks ties otherwise (in the first round every core is zero).

    Raises:
        ValueError: ``count`` is not in 1 .. h.
    """
    chosen: dict[str, HeadIndices] = {}
    for index, (layer, heads) in enumerate(layers.items()):
        if not 1 <= count <= heads:
            raise ValueError(f"cannot train {count} of the {heads} heads of {layer}")
        if count == heads:
            chosen[layer] = np.arange(heads, dtype=np.int32)
            continue
        order = Stream(seed, Purpose.SELECT_HEADS, round, device, index).permutation(heads)
        if norms is not None:
            # A stable sort of the shuffled heads leaves ties in their shuffled order.
            order = order[np.argsort(-norms[layer][order], kind="stable")]
        chosen[layer] = np.sort(order[:count]).astype(np.int32)
    return chosen
