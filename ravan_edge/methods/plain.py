"""Methods whose parameters are the graph's inputs: ``fedit`` (plain LoRA) and ``head-only``.

``fedit`` averages A and B apart from each other, as FedIT does (arXiv 2305.05644); the product of
two means is not the mean of the products, which is what Ravan's exact mean is compared with.
``head-only`` trains nothing but the task head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.manifest import Layer, Role, TensorEntry
from ravan_edge.methods.layout import ParameterLayout, Vector
from ravan_edge.methods.method import HeadIndices, Training

__all__ = ["Plain", "fedit_table"]

_EVERYTHING = Training(trained={}, running={}, mask=None)


def fedit_table(layers: Sequence[Layer]) -> list[TensorEntry]:
    """The rows of the tensor table for LoRA on these layers: A [r, n] and B [m, r]."""
    table = []
    for layer in layers:
        for suffix, role, shape in (
            ("lora_A", Role.LORA_A, (layer.rank, layer.inputs)),
            ("lora_B", Role.LORA_B, (layer.outputs, layer.rank)),
        ):
            table.append(
                TensorEntry(name=f"{layer.name}.{suffix}", role=role, shape=shape, layer=layer.name)
            )
    return table


@dataclass(frozen=True)
class Plain:
    """``fedit`` and ``head-only``; see :class:`ravan_edge.methods.method.Method`."""

    layout: ParameterLayout

    @property
    def heads_per_layer(self) -> int:
        """0: there are no heads to choose from."""
        return 0

    def start_round(self, heads: Vector) -> Vector:
        """A copy of the saved values."""
        return heads.copy()

    def training(self, heads: Vector, trained: Mapping[str, HeadIndices] | None) -> Training:
        """Everything trains."""
        if trained:
            raise ValueError("this method has no heads to choose from")
        return _EVERYTHING

    def to_graph(self, parameters: Vector, training: Training) -> dict[str, Vector]:
        """The parameters under their own names."""
        return self.layout.views(parameters)

    def to_params(
        self, parameters: Vector, gradients: Mapping[str, Vector], training: Training
    ) -> Vector:
        """The gradients, flattened."""
        result = np.empty_like(parameters)
        for segment in self.layout.segments:
            result[segment.place] = gradients[segment.name].reshape(-1)
        return result

    def fold(self, parameters: Vector) -> Vector:
        """A copy: there is nothing to fold."""
        return parameters.copy()

    def difference(self, parameters: Vector, start: Vector, training: Training) -> Vector:
        """Values minus the values of the version they started from."""
        return parameters - start

    def head_norms(self, tensors: Mapping[str, Vector]) -> dict[str, NDArray[np.float64]]:
        """Empty: there are no heads."""
        return {}
