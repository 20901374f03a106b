"""Runs plan ``executorch``: the child's end of :func:`ravan_edge.plans.executorch.open_executorch`.

The only file that imports ExecuTorch. Sizes are fixed in its programs: batches are cut into as many
rows as one takes, and padded with rows and tokens that count nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.manifest import GraphTensor, Plan
from ravan_edge.artifact.opening import Artifact
from ravan_edge.closing import Closing
from ravan_edge.errors import ArtifactError, MissingExtraError, NumericsError, UsageError
from ravan_edge.methods.layout import Vector
from ravan_edge.methods.method import HeadIndices
from ravan_edge.plans.all_heads import AllHeads
from ravan_edge.plans.step import Evaluation, RuntimeSettings, StepResult
from ravan_edge.plans.worker_serve import serve

__all__ = ["ExecutorchStep"]

Array = NDArray[Any]

_IGNORED = -100
_GRADIENT = "grad."


def _load(artifact: Artifact, plan: Plan, threads: int) -> Any:
    """The loaded program."""
    try:
        import torch
        from executorch.extension.pybindings import portable_lib
    except ImportError as error:
        raise MissingExtraError(
            f"plan 'executorch' needs ExecuTorch, which is not installed here: {error}",
            hint="pip install 'ravan-edge[executorch]'",
        ) from error
    torch.set_num_threads(threads)
    portable_lib._unsafe_reset_threadpool(threads)
    path = artifact.graph_path("executorch", "step")
    try:
        program = portable_lib._load_for_executorch(
            str(path),
            str(artifact.folder / plan.blobs[0]),
            program_verification=portable_lib.Verification.InternalConsistency,
        )
        for role in plan.graphs:  # nothing is read before somebody asks
            program.method_meta(role)
    except RuntimeError as error:
        raise ArtifactError(
            f"ExecuTorch cannot load the program: {error}",
            where=str(path),
            hint="export the artifact again",
        ) from error
    return program


class ExecutorchStep(Closing):
    """Plan ``executorch`` of one artifact; see :class:`ravan_edge.plans.step.Step`.

    Args:
        artifact: An opened artifact.
        settings: Threads count; the rest of them this runtime does not have.

    Raises:
        MissingExtraError: ExecuTorch is not installed.
        ArtifactError: It cannot load the program.
    """

    def __init__(self, artifact: Artifact, settings: RuntimeSettings) -> None:
        self._plan = artifact.manifest.plans["executorch"]
        self._program = _load(artifact, self._plan, settings.threads)
        text = artifact.manifest.text
        self._pad_id = 0 if text is None else text.pad_id
        self._heads = AllHeads(artifact.manifest.layers)
        self._batch = [
            tensor
            for tensor in self._plan.inputs
            if any(isinstance(dim, str) for dim in tensor.shape)
        ]

    def use_heads(self, running: Mapping[str, HeadIndices]) -> None:
        """Take these rows of ``<layer>.G``; the program runs all heads, the others with zeros."""
        self._heads.use(running)

    def _padded(self, tensor: GraphTensor, found: Array) -> Array:
        """``found`` in the program's size, filled up with what counts nothing."""
        sizes = [self._plan.limits[dim] if isinstance(dim, str) else dim for dim in tensor.shape]
        for dim, have, most in zip(tensor.shape, found.shape, sizes, strict=True):
            if have > most:
                raise UsageError(
                    f"{dim} {have}, but plan 'executorch' of this artifact takes at most {most}",
                    where=tensor.name,
                    hint=f"use --max-length {most}, or export with a longer --plan-length",
                )
        fill = 0
        if tensor.name == "labels":
            fill = _IGNORED
        elif tensor.name.endswith("input_ids"):
            fill = self._pad_id
        whole = np.full(sizes, fill, tensor.dtype)
        whole[tuple(slice(size) for size in found.shape)] = found
        return whole

    def _calls(
        self, role: str, batch: Mapping[str, Array], trainables: Mapping[str, Vector]
    ) -> Iterator[tuple[int, dict[str, Array]]]:
        """The outputs for each part of the batch, and how many rows the part has."""
        import torch

        names = [tensor.name for tensor in self._plan.outputs[role]]
        trained = {
            name: torch.from_numpy(self._heads.spread(name, array))
            for name, array in trainables.items()
        }
        rows, most = len(batch["labels"]), self._plan.limits["batch"]
        for start in range(0, rows, most):
            part = {
                tensor.name: torch.from_numpy(
                    self._padded(tensor, batch[tensor.name][start : start + most])
                )
                for tensor in self._batch
            }
            given = part | trained
            inputs = tuple(given[tensor.name] for tensor in self._plan.inputs)
            try:
                outputs = self._program.run_method(role, inputs)
            except RuntimeError as error:
                raise NumericsError(f"ExecuTorch could not run the step: {error}") from error
            arrays = {
                name: np.asarray(output.numpy() if hasattr(output, "numpy") else output)
                for name, output in zip(names, outputs, strict=True)
            }
            yield min(most, rows - start), arrays

    def train(self, batch: Mapping[str, Array], trainables: Mapping[str, Vector]) -> StepResult:
        """Loss sum, count, metrics and gradients of the sum for one batch."""
        sums: dict[str, float] = {}
        gradients: dict[str, Array] = {}
        for _, outputs in self._calls("step", batch, trainables):
            for name, array in outputs.items():
                if not name.startswith(_GRADIENT):
                    sums[name] = sums.get(name, 0.0) + float(array)
                    continue
                key = name.removeprefix(_GRADIENT)
                gradient = self._heads.taken(key, array)
                gradients[key] = gradients[key] + gradient if key in gradients else gradient
        loss, count = sums.pop("loss_sum"), sums.pop("count")
        return StepResult(loss, int(count), sums, gradients)

    def evaluate(self, batch: Mapping[str, Array], trainables: Mapping[str, Vector]) -> Evaluation:
        """Loss sum, count, metrics and logits of one batch."""
        sums: dict[str, float] = {}
        logits: list[Array] = []
        for rows, outputs in self._calls("eval", batch, trainables):
            if "logits" in outputs:
                found = outputs.pop("logits")[:rows]
                labels = batch["labels"]
                logits.append(found[:, : labels.shape[1]] if labels.ndim > 1 else found)
            for name, array in outputs.items():
                sums[name] = sums.get(name, 0.0) + float(array)
        loss, count = sums.pop("loss_sum"), sums.pop("count")
        return Evaluation(loss, int(count), sums, np.concatenate(logits) if logits else None)

    def close(self) -> None:
        """Drop the program; the process ends right after."""
        self._program = None


if __name__ == "__main__":
    serve(ExecutorchStep, distribution="executorch")
