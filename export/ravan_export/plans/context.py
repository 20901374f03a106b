"""What every plan is written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ravan_edge.artifact.manifest import TensorEntry
from ravan_edge.artifact.writer import ArtifactWriter
from ravan_export.adaptation import Adaptation
from ravan_export.capture import Program
from ravan_export.graph.finish import Span
from ravan_export.settings import ExportSettings
from ravan_export.tasks import Task

__all__ = ["Parts", "PlanContext"]


@dataclass(frozen=True, slots=True)
class Parts:
    """Tensors that a task adds to the captured pass.

    Args:
        task_head: Trained parameters: graph input -> (dotted name in the program, shape).
        frozen: What the loss reads: the task's name for it -> (name in the base, shape).
        numbers: Constants that the loss reads, by the task's names.
    """

    task_head: Mapping[str, tuple[str, tuple[int, ...]]]
    frozen: Mapping[str, tuple[str, tuple[int, ...]]]
    numbers: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PlanContext:
    """A captured model whose base is written.

    Args:
        program: The forward pass.
        adaptation: What trains, and its bases.
        task: How the loss is formed.
        parts: Tensors that the task adds.
        options: Of the export.
        table: The tensor table.
        initial: Initial values of the table's tensors.
        frozen: The pretrained model's frozen tensors that graphs read, by their name in the base.
        spans: Where each of them lies in the base.
        max_length: The most tokens that the model takes; None: it reads no texts.
        writer: Where files go.
    """

    program: Program
    adaptation: Adaptation
    task: Task
    parts: Parts
    options: ExportSettings
    table: tuple[TensorEntry, ...]
    initial: Mapping[str, NDArray[Any]]
    frozen: Mapping[str, NDArray[Any]]
    spans: Mapping[str, Span]
    max_length: int | None
    writer: ArtifactWriter
