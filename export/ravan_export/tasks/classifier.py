"""Classifiers of Hugging Face with a head of their own, which then trains in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ravan_edge.data import numbered_labels
from ravan_edge.errors import ModelError
from ravan_edge.generator import Purpose, Stream
from ravan_export.source import Checkpoint, check_complete

__all__ = ["Classifier", "load_classifier"]

_SHOWN_NAMES = 5
_INIT_SPREAD = 0.02
"""The standard deviation with which Hugging Face fills a new classifier."""


@dataclass(frozen=True, slots=True)
class Classifier:
    """A loaded classifier.

    Args:
        model: The Hugging Face model.
        modules: Its modules that are its head.
        head: Trained parameters: name in the tensor table -> (dotted name in the model, initial
            value).
        notices: What a person should know.
    """

    model: Any
    modules: tuple[str, ...]
    head: Mapping[str, tuple[str, NDArray[np.float32]]]
    notices: tuple[str, ...]


def load_classifier(
    checkpoint: Checkpoint,
    optimum_task: str,
    labels: tuple[str, ...],
    seed: int,
    *,
    suffix: str | tuple[str, ...],
    unused: tuple[str, ...] = (),
    replace_head: bool = False,
) -> Classifier:
    """Load a classifier with its own head, or with a new one where the checkpoint has none.

    Args:
        checkpoint: An opened folder.
        optimum_task: Chooses the class.
        labels: The label map.
        seed: Of a new head.
        suffix: How the names of classes end whose checkpoints have a head for this task.
        unused: Modules that a checkpoint may lack since the graph does not read them.
        replace_head: Whether a head for another number of labels gives way to a new one, with a
            notice (where checkpoints without a head are rare); else it is refused.

    Raises:
        ModelError: It cannot be loaded, is no classifier, or has another number of labels.
    """
    config = checkpoint.config
    architectures = config.architectures or [""]
    replaced: int | None = None
    notices: tuple[str, ...] = ()
    if str(architectures[0]).endswith(suffix):
        if replace_head and config.num_labels != len(labels):
            replaced = config.num_labels or 0
        else:
            _check_labels(checkpoint, len(labels))
            notices = _other_names(config, labels)
    config.num_labels = len(labels)
    model, missing = checkpoint.load(optimum_task, other_sizes=replaced is not None)
    modules, head = _own_head(model)
    if any(full in missing for full, _ in head.values()):
        _fill(head, missing, seed)
        notices = ("the checkpoint has no classifier: its task head starts at random",)
    if replaced is not None:
        words = f"has {replaced} labels: a new one for {len(labels)} starts at random in its place"
        notices = (f"the checkpoint's task head {words}",)
    check_complete(missing, (*modules, *unused), checkpoint.folder)
    arrays = {key: (full, tensor.detach().numpy()) for key, (full, tensor) in head.items()}
    return Classifier(model, modules, arrays, notices)


def _check_labels(checkpoint: Checkpoint, labels: int) -> None:
    config = checkpoint.config
    if config.num_labels == 1 or config.problem_type in {
        "regression",
        "multi_label_classification",
    }:
        raise ModelError(
            "the checkpoint's head is for regression or several labels at once",
            where=str(checkpoint.folder),
            hint="the task needs one label each: export the model without that head",
        )
    if config.num_labels != labels:
        raise ModelError(
            f"the checkpoint's own task head has {config.num_labels} labels, --labels names "
            f"{labels}",
            where=str(checkpoint.folder),
            hint="name its own labels, or export the encoder it was made from",
        )


def _other_names(config: Any, labels: tuple[str, ...]) -> tuple[str, ...]:  # noqa: ANN401
    """A notice where both the head and ``--labels`` have names, and they are not the same ones."""
    own = tuple(str(config.id2label.get(index)) for index in range(len(labels)))
    unnamed = tuple(f"LABEL_{index}" for index in range(len(labels)))
    if own in {labels, unnamed} or labels in {unnamed, numbered_labels(len(labels))}:
        return ()
    shown = [
        ", ".join(names[:_SHOWN_NAMES]) + ", ..." * (len(names) > _SHOWN_NAMES)
        for names in (own, labels)
    ]
    return (
        f"the checkpoint's task head calls its labels {shown[0]}; it goes on as {shown[1]}, in this order",
    )


def _own_head(model: nn.Module) -> tuple[tuple[str, ...], dict[str, tuple[str, Tensor]]]:
    """Modules outside the encoder, and their parameters under ``task_head.*``."""
    encoder = str(getattr(model, "base_model_prefix", ""))
    modules = tuple(
        name
        for name, module in model.named_children()
        if name != encoder and any(True for _ in module.parameters())
    )
    if not modules:
        raise ModelError("has no task head of its own", where=type(model).__name__)
    tensors: dict[str, tuple[str, Tensor]] = {}
    for full, tensor in model.named_parameters():
        top, _, rest = full.partition(".")
        if top in modules:
            tensors[f"task_head.{rest if len(modules) == 1 else full}"] = (full, tensor)
    return modules, tensors


def _fill(head: Mapping[str, tuple[str, Tensor]], missing: set[str], seed: int) -> None:
    for index, (full, tensor) in enumerate(head.values()):
        if full not in missing:
            continue
        # A vector called weight scales what a norm returns; with 0 nothing would reach the logits.
        norm = tensor.dim() == 1 and full.endswith("weight")
        numbers = np.ones(tensor.numel()) if norm else np.zeros(tensor.numel())
        if tensor.dim() > 1:
            numbers = _INIT_SPREAD * Stream(seed, Purpose.TASK_HEAD, index=index).normal(
                tensor.numel()
            )
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(numbers.reshape(tensor.shape)))
