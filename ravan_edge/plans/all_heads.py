"""Heads that are chosen, for a runtime that runs all of them whatever is chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ravan_edge.artifact.manifest import Layer
from ravan_edge.methods.layout import Vector
from ravan_edge.methods.method import HeadIndices

__all__ = ["AllHeads"]


class AllHeads:
    """Between ``<layer>.G`` of the heads that run, [K, r, r], and that of all, [h, r, r].

    Inputs without heads go through as they are.

    Args:
        layers: The manifest's.
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        self._heads = {f"{layer.name}.G": layer.heads for layer in layers}
        self._rows: dict[str, HeadIndices] = {}

    def use(self, running: Mapping[str, HeadIndices]) -> None:
        """From now on these heads of each layer run; of a layer that was never named, all."""
        self._rows.update({f"{layer}.G": heads for layer, heads in running.items()})

    def spread(self, name: str, given: Vector) -> Vector:
        """An input with a row for every head: zero where a head does not run."""
        rows = self._rows.get(name)
        if rows is None:
            return np.ascontiguousarray(given)
        whole = np.zeros((self._heads[name], *given.shape[1:]), np.float32)
        whole[rows] = given
        return whole

    def taken(self, name: str, gradient: Vector) -> Vector:
        """The rows of an input's gradient whose heads run. A copy: runtimes use their buffers again."""
        rows = self._rows.get(name)
        return gradient.copy() if rows is None else gradient[rows]
