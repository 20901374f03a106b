"""What the exporter must know about a family of models; one instance per file beside this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ravan_export.pooling import Pooling

__all__ = ["Family", "Form"]


@dataclass(frozen=True, slots=True)
class Form:
    """How a family does one task.

    Args:
        capture: From the loaded Hugging Face model to the module that ``torch.export`` sees. Its
            ``forward`` takes the task's inputs by name and returns what the task's loss reads:
            logits, or the hidden states in front of a vocabulary matrix. The model is its
            attribute ``model``, unchanged.
        model_class: The Hugging Face class to load; None: the one optimum names for the task.
        pooling: How token vectors become one, where ``model_class`` has no classifier of its own
            and the folder declares no pooling (text-classification).
    """

    capture: Callable[[Any], nn.Module]
    model_class: type | None = None
    pooling: Pooling | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models that share layer names and a way to be called.

    Args:
        name: As the manifest says it.
        model_types: The ``model_type`` values of Hugging Face configurations that belong to it.
        targets: Last parts of the names of the linear layers that adapt by default.
        forms: By task, how this family does it.
        aliases: Common names of layers -> what this family calls them, so that
            ``--targets query,value`` means the same everywhere.
        length_key: The key of the configuration that bounds the length of a text; None: positions
            are relative, and any length works.
        position_offset: Rows of the position table that are no positions of a text.
    """

    name: str
    model_types: tuple[str, ...]
    targets: tuple[str, ...]
    forms: Mapping[str, Form]
    aliases: Mapping[str, str] = field(default_factory=dict)
    length_key: str | None = "max_position_embeddings"
    position_offset: int = 0
