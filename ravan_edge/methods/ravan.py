"""Ravan: many small trainable cores between frozen random bases (arXiv 2506.05568).

    y = W x + sum_i s_i B_i H_i A_i x                                                (eq. 4)

The graph sees only the products G_i = s_i H_i, so the chain rule through the scale is two lines:

    dH_i = s_i dG_i            ds_i = <H_i, dG_i>
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.manifest import Layer, Role, TensorEntry
from ravan_edge.methods.layout import ParameterLayout, Segment, Vector
from ravan_edge.methods.method import HeadIndices, Training

__all__ = ["Ravan", "rank_for_lora_budget", "ravan_table"]


def rank_for_lora_budget(lora_rank: int, outputs: int, inputs: int, heads: int) -> int:
    """The rank r with which h cores have no more numbers than LoRA of ``lora_rank``.

    h r^2 <= r0 (m + n), so r = floor(sqrt(r0 (m + n) / h)).

    >>> [rank_for_lora_budget(rank, 768, 768, 4) for rank in (8, 16, 32, 64)]
    [55, 78, 110, 156]
    """
    return math.isqrt(lora_rank * (outputs + inputs) // heads)


def ravan_table(layers: Sequence[Layer]) -> list[TensorEntry]:
    """The rows of the tensor table for these layers: all cores and scales."""
    table = []
    for layer in layers:
        core = (layer.heads, layer.rank, layer.rank)
        table.append(
            TensorEntry(name=f"{layer.name}.H", role=Role.CORE, shape=core, layer=layer.name)
        )
        table.append(
            TensorEntry(
                name=f"{layer.name}.s", role=Role.SCALE, shape=(layer.heads,), layer=layer.name
            )
        )
    return table


@dataclass(frozen=True, slots=True)
class _Heads:
    """Places of one layer's core [h, r, r] and scale [h] in the parameter vector."""

    layer: str
    core: Segment
    scale: Segment

    def cores(self, vector: Vector) -> Vector:
        return vector[self.core.start : self.core.stop].reshape(self.core.shape)

    def scales(self, vector: Vector) -> Vector:
        return vector[self.scale.start : self.scale.stop]


@dataclass(frozen=True)
class Ravan:
    """The method ``ravan``; see :class:`ravan_edge.methods.method.Method`."""

    layout: ParameterLayout

    @cached_property
    def _layers(self) -> tuple[_Heads, ...]:
        cores = [segment for segment in self.layout.segments if segment.role is Role.CORE]
        return tuple(
            _Heads(core.layer or "", core, self.layout.segment(f"{core.layer}.s")) for core in cores
        )

    @cached_property
    def _task_head(self) -> tuple[Segment, ...]:
        return tuple(seg for seg in self.layout.segments if seg.role is Role.TASK_HEAD)

    @property
    def heads_per_layer(self) -> int:
        """h, the same in every layer."""
        return self._layers[0].core.shape[0]

    def start_round(self, heads: Vector) -> Vector:
        """A copy with s = 1: the scale is local to a round and never averaged."""
        parameters = heads.copy()
        for layer in self._layers:
            layer.scales(parameters)[:] = 1.0
        return parameters

    def training(self, heads: Vector, trained: Mapping[str, HeadIndices] | None) -> Training:
        """Which heads train and which run. Heads that are zero and do not train need not run.

        Raises:
            ValueError: Indices are not ascending, or out of range.
        """
        chosen: dict[str, HeadIndices] = {}
        running: dict[str, HeadIndices] = {}
        everything = True
        mask = np.ones(self.layout.size, dtype=np.bool_)
        for layer in self._layers:
            count = layer.core.shape[0]
            every = np.arange(count, dtype=np.int32)
            indices = every if trained is None else trained.get(layer.layer, every[:0])
            # Compared, not subtracted: a difference of two int32 can wrap around.
            if indices.size and (
                indices[0] < 0 or indices[-1] >= count or np.any(indices[1:] <= indices[:-1])
            ):
                raise ValueError(f"{layer.layer}: {indices.tolist()} are not heads below {count}")
            chosen[layer.layer] = indices
            if indices.size == count:
                running[layer.layer] = every
                continue
            everything = False
            trains = np.zeros(count, dtype=np.bool_)
            trains[indices] = True
            layer_mask = mask[layer.core.place].reshape(count, -1)
            layer_mask[:] = trains[:, None]
            mask[layer.scale.place] = trains
            runs = trains | np.any(layer.cores(heads) != 0.0, axis=(1, 2))
            # A graph needs at least one head in each layer; a zero one changes nothing.
            runs[0] |= not runs.any()
            running[layer.layer] = every[runs]
        return Training(chosen, running, None if everything else mask)

    def to_graph(self, parameters: Vector, training: Training) -> dict[str, Vector]:
        """G_i = s_i H_i for the running heads [K, r, r], and the task head as it is."""
        inputs: dict[str, Vector] = {}
        for layer in self._layers:
            cores, scales = layer.cores(parameters), layer.scales(parameters)
            running = training.running[layer.layer]
            if running.size < scales.size:
                cores, scales = cores[running], scales[running]
            inputs[f"{layer.layer}.G"] = cores * scales[:, None, None]
        for segment in self._task_head:
            inputs[segment.name] = parameters[segment.place].reshape(segment.shape)
        return inputs

    def to_params(
        self, parameters: Vector, gradients: Mapping[str, Vector], training: Training
    ) -> Vector:
        """dH_i = s_i dG_i, ds_i = <H_i, dG_i>; zero for heads that do not train."""
        result = np.zeros_like(parameters)
        for layer in self._layers:
            cores, scales = layer.cores(parameters), layer.scales(parameters)
            gradient = gradients[f"{layer.layer}.G"]
            running = training.running[layer.layer]
            if running.size == scales.size:
                np.multiply(gradient, scales[:, None, None], out=layer.cores(result))
                layer.scales(result)[:] = np.einsum("kab,kab->k", cores, gradient)
            else:
                chosen = cores[running]
                layer.cores(result)[running] = gradient * scales[running, None, None]
                layer.scales(result)[running] = np.einsum("kab,kab->k", chosen, gradient)
        for segment in self._task_head:
            result[segment.place] = gradients[segment.name].reshape(-1)
        if training.mask is not None:
            result *= training.mask
        return result

    def fold(self, parameters: Vector) -> Vector:
        """H_i <- s_i H_i, s_i <- 1."""
        folded = parameters.copy()
        for layer in self._layers:
            scales = layer.scales(folded)
            layer.cores(folded)[:] *= scales[:, None, None]
            scales[:] = 1.0
        return folded

    def difference(self, parameters: Vector, start: Vector, training: Training) -> Vector:
        """D_i = s_i H_i - H_i(version) for trained heads; 0 for the others and for the scales."""
        difference = self.fold(parameters) - start
        for layer in self._layers:
            layer.scales(difference)[:] = 0.0
        if training.mask is not None:
            difference[~training.mask] = 0.0
        return difference

    def head_norms(self, tensors: Mapping[str, Vector]) -> dict[str, NDArray[np.float64]]:
        """Frobenius norms [K] of ``<layer>.G`` (values: weight score; gradients: gradient score)."""
        norms = {}
        for layer in self._layers:
            tensor = tensors[f"{layer.layer}.G"].astype(np.float64)
            norms[layer.layer] = np.sqrt(np.einsum("kab,kab->k", tensor, tensor))
        return norms
