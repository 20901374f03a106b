"""The options of an export; imports no torch, so that ``--help`` is quick."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ravan_edge.errors import UsageError
from ravan_edge.generator import MAX_SEED
from ravan_edge.tasks import USUAL_LENGTH
from ravan_edge.training.options import check_options, option
from ravan_export.bases import Init

__all__ = ["DEFAULT_TASK", "METHODS", "ExportSettings", "MethodName", "StepSize", "Trust"]

MethodName = Literal["ravan", "head-only", "fedit"]
DEFAULT_TASK = "text-classification"
"""What a model learns unless somebody says something else."""

METHODS: tuple[MethodName, ...] = ("ravan", "head-only", "fedit")

_GROUP = "Export"


@dataclass(frozen=True)
class ExportSettings:
    """What a user may choose, with its help, range and only default."""

    method: MethodName = option(
        "ravan", "What trains: Ravan heads, the task head alone, or plain LoRA.", group=_GROUP
    )
    heads: int = option(
        4, "h, heads of each adapted layer (ravan).", minimum=1, maximum=4096, group=_GROUP
    )
    rank: int | None = option(
        None, "r. Default: from --lora-budget.", minimum=1, maximum=65536, group=_GROUP
    )
    lora_budget: int = option(
        8,
        "The LoRA rank whose number of trained values a layer may have.",
        minimum=1,
        maximum=65536,
        group=_GROUP,
    )
    init: Init = option(Init.GRAM_SCHMIDT, "How the frozen bases are drawn (ravan).", group=_GROUP)
    targets: str | None = option(
        None,
        "Linear layers to adapt, separated by commas: names, or last parts of names. "
        "Default: query,value, whatever the model calls them.",
        group=_GROUP,
    )
    seed: int = option(0, "Of bases and initial heads.", minimum=0, maximum=MAX_SEED, group=_GROUP)
    tokens: int = option(
        1024,
        "Tokens a step usually has, padding included. Any number works; the graph is laid out so "
        "that this one is fastest.",
        minimum=1,
        maximum=1 << 24,
        group=_GROUP,
    )
    loss_slices: int = option(
        8,
        "For language models: parts in which the loss over the vocabulary is computed, one after the "
        "other. More need less memory.",
        minimum=1,
        maximum=1024,
        group=_GROUP,
    )
    plan_rows: int = option(
        8,
        "Rows of a step in plans whose sizes are fixed (executorch). Larger batches take several.",
        minimum=1,
        maximum=4096,
        group=_GROUP,
    )
    plan_length: int = option(
        128,
        "Tokens of a row in such plans. Shorter rows are padded to it, longer ones cut.",
        minimum=1,
        maximum=1 << 20,
        group=_GROUP,
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.method not in METHODS:
            raise UsageError(
                f"{self.method!r} is no method",
                where="--method",
                hint=f"choose one of {', '.join(METHODS)}",
            )
        if self.init not in set(Init):
            raise UsageError(
                f"{self.init!r} is no way to draw bases",
                where="--init",
                hint=f"choose one of {', '.join(Init)}",
            )
        if self.targets is not None and not re.fullmatch(r"[\w.]+(,[\w.]+)*", self.targets):
            raise UsageError(
                f"{self.targets!r} is no list of names",
                where="--targets",
                hint="separate names by commas: query,value",
            )

    @property
    def target_names(self) -> tuple[str, ...] | None:
        """The targets one by one."""
        return None if self.targets is None else tuple(self.targets.split(","))


@dataclass(frozen=True)
class StepSize:
    """The training step whose memory is looked at."""

    batch: int = option(
        8, "Rows of the step whose memory is looked at.", minimum=1, maximum=1 << 20, group="Step"
    )
    length: int | None = option(
        None,
        f"Tokens of a row; images have their own. Default: {USUAL_LENGTH}, or what the model takes "
        "where that is less.",
        minimum=1,
        maximum=1 << 20,
        group="Step",
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Trust:
    """What a user lets a model's folder do; nothing, unless it is typed."""

    allow_pickle: bool = option(
        False,
        "Read weights from pickled files (pytorch_model.bin) where there are no safetensors. Only "
        "tensors are taken from them (torch's weights_only).",
        group="Trust",
    )
    trust_remote_code: bool = option(
        False,
        "Run Python code that came with the model. It has all your rights: read it first.",
        group="Trust",
    )
