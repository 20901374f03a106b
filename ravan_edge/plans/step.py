"""The ``Step`` protocol: the one thing a plan must be able to do.

    step(batch, trainables) -> (loss_sum, count, metrics, gradients of the sum)

Loss and metrics are sums with their count, gradients are of the sum; whoever calls divides once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ravan_edge.methods.layout import Vector
from ravan_edge.methods.method import HeadIndices

__all__ = ["Evaluation", "RuntimeSettings", "Step", "StepResult"]


@dataclass(frozen=True)
class RuntimeSettings:
    """How a runtime may use the machine. Resolved once for a run: they can change float bits.

    Attributes:
        threads: Threads inside one step.
        arena: Keep freed memory for the next step (faster) instead of returning it.
        prepack: Let the runtime copy frozen matrices into its own layout: a little faster in large
            batches, but each process then holds the base in anonymous memory instead of sharing the
            mapped file.
        bfloat16_products: On ARM, allow products in bfloat16 (faster, not exact). Elsewhere nothing.
    """

    threads: int = 1
    arena: bool = True
    prepack: bool = False
    bfloat16_products: bool = False


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one training step computed.

    Attributes:
        loss_sum: Sum of the losses of the counted rows.
        count: How many rows (or tokens) count: those whose label is not -100.
        metrics: Further sums over the same rows, such as ``correct``.
        gradients: Gradient of ``loss_sum`` for each trainable graph input, by input name.
    """

    loss_sum: float
    count: int
    metrics: Mapping[str, float]
    gradients: Mapping[str, Vector]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one evaluation step computed.

    ``logits`` is float32 [rows, labels] or [rows, length, labels]; None for tasks without labels.
    """

    loss_sum: float
    count: int
    metrics: Mapping[str, float]
    logits: NDArray[np.float32] | None


class Step(Protocol):
    """One plan of one artifact, opened on this machine. Not for use by two threads at once."""

    def use_heads(self, running: Mapping[str, HeadIndices]) -> None:
        """From now on run these heads of each layer: ``<layer>.G`` then has that many rows."""
        ...

    def train(
        self, batch: Mapping[str, NDArray[Any]], trainables: Mapping[str, Vector]
    ) -> StepResult:
        """One training step. ``batch``: the graph's batch inputs, ``labels`` among them.

        Raises:
            NumericsError: The runtime could not compute it.
        """
        ...

    def evaluate(
        self, batch: Mapping[str, NDArray[Any]], trainables: Mapping[str, Vector]
    ) -> Evaluation:
        """Loss, metrics and logits of one batch."""
        ...

    def close(self) -> None:
        """Give all memory back."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
