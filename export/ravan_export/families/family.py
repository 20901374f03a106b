"""What the exporter must know about a family of models; one instance per file beside this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Family"]


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models that share layer names and a way to be called.

    Args:
        name: As the manifest says it.
        model_types: The ``model_type`` values of Hugging Face configurations that belong to it.
        targets: Last parts of the names of the linear layers that adapt by default.
        aliases: Common names of layers -> what this family calls them, so that
            ``--targets query,value`` means the same everywhere.
        token_types: Whether the model takes ``token_type_ids`` (a single text has only zeros, which
            are then folded into the graph).
        position_offset: Rows of the position table that are no positions of a text.
    """

    name: str
    model_types: tuple[str, ...]
    targets: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    token_types: bool = False
    position_offset: int = 0
