"""What the exporter must know about a task; one subclass per file beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray
from torch import Tensor

from ravan_edge.artifact.manifest import Task as TaskName
from ravan_edge.artifact.signature import SIGNATURES, Signature
from ravan_export.graph import Builder, Value
from ravan_export.settings import ExportSettings
from ravan_export.source import Checkpoint, Source

__all__ = ["IGNORED", "Array", "Loss", "Task"]

IGNORED = -100
"""The label of a row or token that counts nothing."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Loss:
    """What a task makes of the captured output.

    Args:
        outputs: ``loss_sum`` and ``count``, then the metrics, all scalars.
        gradient: Of ``loss_sum`` with respect to the captured output.
    """

    outputs: dict[str, Value]
    gradient: Value


class Task(ABC):
    """One task: how its model is loaded, its loss formed and its export checked.

    Args:
        options: Of the export.
    """

    name: ClassVar[TaskName]
    """As the manifest and ``--task`` say it."""
    optimum_task: ClassVar[str]
    """optimum's name of it, which chooses the Hugging Face class where a form names none."""
    dims: ClassVar[Mapping[str, Mapping[int, str]]]
    """Inputs of the captured module in the graph's order: the names of their dynamic dimensions."""
    label_dims: ClassVar[tuple[str, ...]]
    """The dimensions of ``labels``."""

    def __init__(self, options: ExportSettings) -> None:
        self.options = options

    @property
    def signature(self) -> Signature:
        """What graphs of this task take and give."""
        return SIGNATURES[self.name]

    @abstractmethod
    def load(self, checkpoint: Checkpoint, labels: tuple[str, ...]) -> Source:
        """Load the model and wrap it into what is captured.

        Args:
            checkpoint: An opened folder; ``checkpoint.load`` gives the model.
            labels: The label map; empty where the task has none.

        Raises:
            ModelError: The model does not fit the task.
        """

    @abstractmethod
    def example(self, source: Source) -> dict[str, Tensor]:
        """Inputs to trace with, one for each of ``dims``; no dynamic dimension may be 0 or 1."""

    @abstractmethod
    def loss(
        self, builder: Builder, output: Value, labels: Value, frozen: Mapping[str, Value]
    ) -> Loss:
        """The loss in the graph.

        Args:
            builder: The graph.
            output: What the captured module returns.
            labels: int64, of the shape ``label_dims``.
            frozen: What ``source.frozen`` holds, by the same names.
        """

    def scores(
        self, builder: Builder, output: Value, labels: Value, frozen: Mapping[str, Value]
    ) -> Mapping[str, Value]:
        """``Loss.outputs`` in the evaluation's graph, where nobody reads a gradient.

        What only the gradient needs is left out of the graph anyway; a task overrides this where its
        loss computes things in an order that depends on the gradient.
        """
        return self.loss(builder, output, labels, frozen).outputs

    @abstractmethod
    def batch(self, source: Source, use: int) -> dict[str, Array]:
        """A padded batch of random numbers with ``labels``, as stored for conformance.

        Args:
            source: The model.
            use: 0 or 1; the two differ in shape, and one has a label that is ``IGNORED``. The
                generator is keyed by it and by ``self.options.seed``.
        """

    @abstractmethod
    def reference(
        self, source: Source, batch: Mapping[str, Tensor], values: Mapping[str, Tensor]
    ) -> Tensor:
        """The loss sum by torch on the original model; shares nothing with what is captured.

        Args:
            source: The model, in the precision to compute in, its adapters hooked on.
            batch: What :meth:`batch` made; floats in the model's precision.
            values: Trained values by name of the tensor table (``task_head.*`` is used here).
        """
