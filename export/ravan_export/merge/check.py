"""What the artifact itself computes with the heads, and how far a merged model is from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.opening import Artifact
from ravan_edge.artifact.tensor_file import BASE_BOUNDS, read_tensors
from ravan_edge.errors import ModelError, NumericsError
from ravan_edge.methods import Vector, method_for
from ravan_edge.plans import RuntimeSettings, open_step

__all__ = ["TOLERANCE", "Array", "Expected", "Gap", "expectations", "gap_of", "refuse"]

TOLERANCE = 1e-4
"""The largest difference of a logit, and of a mean loss, that a float32 model may show."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Expected:
    """What the artifact's evaluation says about one batch.

    Args:
        batch: Its inputs, ``labels`` among them.
        loss: Mean of the rows that count.
        logits: Float32; None for tasks without a label map.
    """

    batch: Mapping[str, Array]
    loss: float
    logits: Array | None

    @property
    def inputs(self) -> dict[str, Array]:
        """The batch without its labels."""
        return {name: array for name, array in self.batch.items() if name != "labels"}


@dataclass(frozen=True, slots=True)
class Gap:
    """How far a merged model is from the artifact.

    Args:
        logits: Largest difference of a logit (of a mean loss, where there are no logits).
        agree: Rows (or tokens) with the same largest logit.
        rows: Of how many.
    """

    logits: float
    agree: int
    rows: int

    @property
    def agreement(self) -> float:
        """Share of rows with the same label, 0 .. 1."""
        return self.agree / self.rows if self.rows else 1.0

    def __add__(self, other: Gap) -> Gap:
        """Of both together."""
        return Gap(max(self.logits, other.logits), self.agree + other.agree, self.rows + other.rows)


def expectations(
    artifact: Artifact, heads: Vector, batches: list[dict[str, Array]] | None = None
) -> list[Expected]:
    """Run the artifact's own evaluation.

    Args:
        artifact: An opened artifact.
        heads: Float32 [parameters], folded.
        batches: With ``labels``; None: the batches stored for conformance.

    Raises:
        NumericsError: A logit or a loss is NaN or infinite.
    """
    method = method_for(artifact.manifest)
    # An empty choice trains nothing: heads that are zero need not run at all.
    training = method.training(heads, {})
    trainables = method.to_graph(method.start_round(heads), training)
    found = []
    with open_step(artifact, "whole", RuntimeSettings(threads=2)) as step:
        step.use_heads(training.running)
        for batch in _stored(artifact) if batches is None else batches:
            result = step.evaluate(batch, trainables)
            logits: Array | None = result.logits
            if not np.isfinite(result.loss_sum if logits is None else logits).all():
                raise NumericsError(
                    "the artifact's own results are NaN or infinite with these heads",
                    hint="take an earlier version of the heads; training needs a lower --lr",
                )
            found.append(Expected(batch, result.loss_sum / max(1, result.count), logits))
    return found


def _stored(artifact: Artifact) -> list[dict[str, Array]]:
    stored, path = artifact.manifest.conformance, artifact.conformance_path
    if stored is None or path is None:
        return []
    tensors = read_tensors(path, BASE_BOUNDS)
    names = (*artifact.manifest.batch_inputs, "labels")
    return [{name: tensors[f"{case.name}.{name}"] for name in names} for case in stored.cases]


def gap_of(expected: Expected, logits: Array) -> Gap:
    """Compare logits with the artifact's; rows of padding alone do not count as rows.

    Args:
        expected: With logits.
        logits: Of the same batch and shape.
    """
    if expected.logits is None:
        raise ValueError("a task without logits is compared by its loss")
    largest = float(np.abs(logits.astype(np.float64) - expected.logits).max(initial=0.0))
    same = logits.argmax(-1) == expected.logits.argmax(-1)
    return Gap(largest if np.isfinite(largest) else float("inf"), int(same.sum()), same.size)


def refuse(gap: Gap, what: str) -> None:
    """Refuse a float32 model that computes something else than the artifact.

    Raises:
        ModelError: The gap is larger than :data:`TOLERANCE`.
    """
    if not gap.logits <= TOLERANCE:
        raise ModelError(
            f"differs from the artifact by {gap.logits:.1e}, more than {TOLERANCE:g}",
            where=what,
            hint="please report it with the output of `ravan inspect`",
        )
