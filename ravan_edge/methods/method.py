"""What a method is: which numbers train, how they reach the graph, how they merge.

A method is a frozen object of pure functions on the parameter vector (see ``layout``). It never
runs anything: training loops, plans and merges call it and stay the same for every method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ravan_edge.methods.layout import ParameterLayout, Vector

__all__ = ["HeadIndices", "Method", "Training"]

HeadIndices = NDArray[np.int32]
"""Ascending indices of heads of one layer, int32 [K]."""


@dataclass(frozen=True)
class Training:
    """What a device trains in one round, and what runs.

    Attributes:
        trained: Heads that train, by layer. Empty for methods without heads.
        running: Heads the graph runs, by layer: trained ones and those that are not zero.
        mask: Bool [parameters], which numbers train; None when all of them do.
    """

    trained: Mapping[str, HeadIndices]
    running: Mapping[str, HeadIndices]
    mask: NDArray[np.bool_] | None


class Method(Protocol):
    """The interface of all methods. Vectors are float32 [layout.size]."""

    @property
    def layout(self) -> ParameterLayout:
        """What trains, in order."""
        ...

    @property
    def heads_per_layer(self) -> int:
        """h: how many heads a layer has; 0 for methods whose parameters cannot be chosen."""
        ...

    def start_round(self, heads: Vector) -> Vector:
        """A fresh copy of the saved heads as training starts from them (ravan: s = 1)."""
        ...

    def training(self, heads: Vector, trained: Mapping[str, HeadIndices] | None) -> Training:
        """Masks and running heads for a choice of heads; None trains everything."""
        ...

    def to_graph(self, parameters: Vector, training: Training) -> dict[str, Vector]:
        """The graph's trainable inputs, by input name."""
        ...

    def to_params(
        self, parameters: Vector, gradients: Mapping[str, Vector], training: Training
    ) -> Vector:
        """Gradients of the parameters from gradients of the graph's inputs. Zero where not trained."""
        ...

    def fold(self, parameters: Vector) -> Vector:
        """The parameters as they are saved (ravan: H <- s H, s = 1)."""
        ...

    def difference(self, parameters: Vector, start: Vector, training: Training) -> Vector:
        """The update: folded parameters minus the version they started from, 0 where not trained."""
        ...

    def head_norms(self, tensors: Mapping[str, Vector]) -> dict[str, NDArray[np.float64]]:
        """Frobenius norms [K] of each layer's head tensors (``<layer>.G``), for choosing heads."""
        ...
