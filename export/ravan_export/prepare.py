"""What an export and an estimate of it begin with: the task, its labels, the captured model, its tensors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

from torch import Tensor

from ravan_edge.artifact.manifest import Role, TensorEntry
from ravan_edge.data import label_map
from ravan_edge.errors import UsageError
from ravan_export.adaptation import Adaptation
from ravan_export.capture import Program, capture
from ravan_export.plans import Parts
from ravan_export.settings import ExportSettings
from ravan_export.source import Source
from ravan_export.tasks import TASKS, Task
from ravan_export.translate import frozen_name

__all__ = [
    "captured",
    "chosen_task",
    "label_names",
    "loss_tensors",
    "task_parts",
    "tensor_table",
]


def label_names(
    labels: int | str | os.PathLike[str] | Sequence[str], task: Task
) -> tuple[str, ...]:
    """The label map: a number of labels, a file with them, or their names.

    Raises:
        DataError: The file is refused.
        UsageError: A number that is none.
    """
    if isinstance(labels, (int, str, os.PathLike)):
        given = str(labels) if isinstance(labels, int) else os.fspath(labels)
        return label_map(given, of_words=task.signature.label_axes > 1)
    return tuple(labels)


def chosen_task(name: str, labels: object, options: ExportSettings) -> Task:
    """The task, if the options fit it.

    Raises:
        UsageError: They do not, or there is no such task.
    """
    if name not in TASKS:
        raise UsageError(
            f"{name!r} is no task that can be exported",
            where="--task",
            hint=f"known are {', '.join(TASKS)}",
        )
    task = TASKS[name](options)
    if task.signature.label_map and labels is None:
        raise UsageError(
            f"{name} needs a label map", where="--labels", hint="give a number, or a file with them"
        )
    if not task.signature.label_map and labels is not None:
        raise UsageError(f"{name} has no labels", where="--labels", hint="leave the option out")
    if not task.signature.label_map and options.method == "head-only":
        raise UsageError(
            f"{name} is a task without a task head, so head-only has nothing to train",
            where="--method",
            hint="choose ravan or fedit",
        )
    return task


def captured(source: Source, task: Task) -> Program:
    """The forward pass of a loaded model.

    Raises:
        ModelError: It cannot be captured exactly.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its internals
        return capture(source.captured, task.example(source), task.dims)


def loss_tensors(source: Source) -> dict[str, Tensor]:
    """The parameters that the loss reads by itself."""
    return {key: item for key, item in source.frozen.items() if isinstance(item, Tensor)}


def task_parts(source: Source, program: Program) -> Parts:
    """What the task adds to the captured pass."""
    dotted = {tensor.data_ptr(): name for name, tensor in source.model.named_parameters()}
    frozen: dict[str, tuple[str, tuple[int, ...]]] = {}
    for role, tensor in loss_tensors(source).items():
        name = frozen_name(program, tensor, dotted[tensor.data_ptr()])
        frozen[role] = (name, tuple(tensor.shape))
    numbers = {key: item for key, item in source.frozen.items() if isinstance(item, float)}
    head = {key: (full, array.shape) for key, (full, array) in source.task_head.items()}
    return Parts(head, frozen, numbers)


def tensor_table(adaptation: Adaptation, source: Source) -> tuple[TensorEntry, ...]:
    """The tensor table: adapters, then the task head."""
    head = tuple(
        TensorEntry(name=name, role=Role.TASK_HEAD, shape=array.shape)
        for name, (_, array) in source.task_head.items()
    )
    return (*adaptation.table, *head)
