"""Repeats the exporter's check on this device: stored batches, compared with torch's gradients.

Section 7 of docs/artifact.md. Needs no torch: what autograd found on the original model is stored
beside the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.manifest import Conformance, Role
from ravan_edge.artifact.opening import Artifact
from ravan_edge.artifact.tensor_file import BASE_BOUNDS, read_tensors
from ravan_edge.errors import ArtifactError, TensorFileError
from ravan_edge.methods.registry import method_for
from ravan_edge.plans.step import Step

__all__ = ["CaseResult", "check_conformance", "relative_error"]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How one stored batch came out here.

    Attributes:
        name: The case.
        loss: What this device computed.
        errors: Relative error of the loss (``loss_sum``) and of each gradient, by tensor.
        eval_gap: Relative difference between the losses of the step and of the evaluation.
    """

    name: str
    loss: float
    errors: Mapping[str, float]
    eval_gap: float

    @property
    def worst(self) -> tuple[str, float]:
        """The tensor with the largest error, and that error. A NaN counts as infinite."""
        name = max(self.errors, key=lambda key: _finite(self.errors[key]))
        return name, _finite(self.errors[name])


def _finite(error: float) -> float:
    return error if np.isfinite(error) else float("inf")


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """||found - expected|| / ||expected||, in float64; ||found|| where ``expected`` is 0.

    >>> relative_error(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    0.0
    """
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    scale = float(np.linalg.norm(expected))
    return float(np.linalg.norm(found - expected)) / (scale or 1.0)


def check_conformance(artifact: Artifact, step: Step) -> tuple[Conformance, list[CaseResult]]:
    """Run every stored case.

    Args:
        artifact: An opened artifact.
        step: One of its plans.

    Returns:
        What the exporter saw (with the tolerance), and what came out here.

    Raises:
        ArtifactError: Nothing is stored, or not what section 7 says.
    """
    stored, path = artifact.manifest.conformance, artifact.conformance_path
    if stored is None or path is None:
        raise ArtifactError(
            "no conformance case is stored", where=str(artifact.folder), hint="export it again"
        )
    tensors = read_tensors(path, BASE_BOUNDS)
    try:
        results = [_run(case.name, tensors, artifact, step) for case in stored.cases]
    except KeyError as error:
        raise TensorFileError(
            f"tensor {error} is missing", where=str(path), hint="export the artifact again"
        ) from error
    except ValueError as error:
        raise TensorFileError(
            f"a stored case does not have the shapes of the tensor table: {error}",
            where=str(path),
            hint="export the artifact again",
        ) from error
    return stored, results


def _terms(case: str, layer: str, tensors: Mapping[str, NDArray[Any]]) -> float:
    """What the gradient of a layer's scales is measured against.

    A plan computes dG; ds_i = <H_i, dG_i> is the host's sum, whose terms may cancel. An error of it is
    relative to what it could be at most: the norm over the heads of ||H_i|| ||dG_i||.
    """
    core = tensors[f"{case}.param.{layer}.H"].astype(np.float64)
    scale = tensors[f"{case}.param.{layer}.s"].astype(np.float64)
    d_core = tensors[f"{case}.grad.{layer}.H"].astype(np.float64)  # s_i dG_i
    norms = np.linalg.norm(core, axis=(1, 2)) * np.linalg.norm(d_core, axis=(1, 2))
    norms /= np.maximum(abs(scale), np.finfo(np.float32).tiny)
    return float(np.linalg.norm(norms)) or 1.0


def _run(
    case: str, tensors: Mapping[str, NDArray[Any]], artifact: Artifact, step: Step
) -> CaseResult:
    names = (*artifact.manifest.batch_inputs, "labels")
    batch = {name: tensors[f"{case}.{name}"] for name in names}
    method = method_for(artifact.manifest)
    layout = method.layout
    parameters = layout.pack(
        {segment.name: tensors[f"{case}.param.{segment.name}"] for segment in layout.segments}
    )
    training = method.training(parameters, None)
    step.use_heads(training.running)
    inputs = method.to_graph(parameters, training)
    result = step.train(batch, inputs)
    evaluation = step.evaluate(batch, inputs)
    gradients = layout.views(method.to_params(parameters, result.gradients, training))
    expected = tensors[f"{case}.loss_sum"]
    scales = {
        entry.name: str(entry.layer)
        for entry in artifact.manifest.tensors
        if entry.role == Role.SCALE
    }
    errors = {"loss_sum": relative_error(np.asarray(result.loss_sum), expected)}
    for name, gradient in gradients.items():
        found, wanted = gradient, tensors[f"{case}.grad.{name}"]
        if name in scales:
            size = _terms(case, scales[name], tensors)
            errors[name] = float(np.linalg.norm(found.astype(np.float64) - wanted)) / size
        else:
            errors[name] = relative_error(found, wanted)
    gap = abs(evaluation.loss_sum - result.loss_sum) / (abs(result.loss_sum) or 1.0)
    return CaseResult(case, result.loss_sum, errors, gap)
