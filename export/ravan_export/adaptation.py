"""What trains: adapted layers, the tensor table, bases and initial heads of each method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ravan_edge.artifact.manifest import Basis, Layer, MethodSettings, Role, TensorEntry
from ravan_edge.errors import ModelError
from ravan_edge.generator import Purpose, Stream
from ravan_edge.methods.plain import fedit_table
from ravan_edge.methods.ravan import rank_for_lora_budget, ravan_table
from ravan_export.bases import Init, make_bases, outlined_bases
from ravan_export.families import Family
from ravan_export.settings import ExportSettings

__all__ = ["Adaptation", "adapt", "find_layers"]

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Adaptation:
    """A method applied to one model.

    Args:
        settings: As the manifest records them.
        layers: The adapted layers.
        table: The tensor table without the task head.
        bases: Descriptions of the frozen bases.
        base_tensors: Their numbers.
        heads: Initial values of the table's tensors.
        notices: What a person should know.
    """

    settings: MethodSettings
    layers: tuple[Layer, ...]
    table: tuple[TensorEntry, ...]
    bases: tuple[Basis, ...]
    base_tensors: Arrays
    heads: Arrays
    notices: tuple[str, ...]


def find_layers(model: nn.Module, targets: Sequence[str], task_head: Sequence[str]) -> list[str]:
    """Dotted names of the linear layers that targets name, in the model's order.

    Args:
        model: The Hugging Face model.
        targets: A layer's dotted name, or its last parts.
        task_head: Modules without adapters: the task head, a vocabulary matrix.

    Raises:
        ModelError: There is no linear layer, or a target names none.
    """
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and not any(name == head or name.startswith(f"{head}.") for head in task_head)
    ]
    if not linear:
        raise ModelError(
            "no adaptable layer: it has no linear layer outside its task head",
            where=type(model).__name__,
            hint="--method head-only trains the task head alone",
        )
    chosen = set()
    for target in targets:
        found = [name for name in linear if name == target or name.endswith(f".{target}")]
        if not found:
            known = sorted({name.rpartition(".")[2] for name in linear})
            raise ModelError(
                f"no linear layer is called {target!r}; this model has {', '.join(known)}",
                where=type(model).__name__,
                hint="name some of those with --targets, separated by commas",
            )
        chosen.update(found)
    return [name for name in linear if name in chosen]


def _layers(model: nn.Module, names: Sequence[str], options: ExportSettings) -> list[Layer]:
    layers = []
    for name in names:
        module = model.get_submodule(name)
        if not isinstance(module, nn.Linear):
            raise ModelError("is not a linear layer", where=name)
        m, n = module.out_features, module.in_features
        heads = options.heads if options.method == "ravan" else 1
        if options.rank is not None:
            rank = options.rank
        elif options.method == "ravan":
            rank = rank_for_lora_budget(options.lora_budget, m, n, heads)
        else:
            rank = options.lora_budget
        if not 1 <= rank <= min(m, n):
            raise ModelError(
                f"rank {rank} does not fit a layer of {m} x {n}: expected 1 to {min(m, n)}",
                where=name,
                hint="choose another --rank, --lora-budget or --heads",
            )
        layers.append(Layer(name=name, outputs=m, inputs=n, heads=heads, rank=rank))
    return layers


def adapt(
    model: nn.Module,
    family: Family,
    task_head: Sequence[str],
    options: ExportSettings,
    *,
    drawn: bool = True,
) -> Adaptation:
    """Apply a method to a model: choose layers, draw bases, make initial heads.

    Args:
        model: The Hugging Face model.
        family: Its family.
        task_head: Modules without adapters.
        options: Of the export.
        drawn: Whether bases have numbers; else they have shapes alone, and are made at once.

    Raises:
        ModelError: A target is not there, or a rank does not fit; names the layer.
    """
    if options.method == "head-only":
        settings = MethodSettings(name="head-only", seed=options.seed)
        return Adaptation(settings, (), (), (), {}, {}, ())
    wanted = options.target_names or family.targets
    targets = tuple(dict.fromkeys(family.aliases.get(name, name) for name in wanted))
    layers = _layers(model, find_layers(model, targets, task_head), options)
    ranks = {layer.rank for layer in layers}
    settings = MethodSettings(
        name=options.method, seed=options.seed, targets=targets, rank=min(ranks)
    )
    if options.method == "fedit":
        return _fedit(_with_alpha(settings), layers)
    return _ravan(settings, layers, options, drawn=drawn)


def _with_alpha(settings: MethodSettings) -> MethodSettings:
    """LoRA's alpha is twice the rank: a factor of 2, the usual choice."""
    rank = settings.rank or 1
    return settings.model_copy(update={"alpha": float(2 * rank)})


def _ravan(
    settings: MethodSettings, layers: Sequence[Layer], options: ExportSettings, *, drawn: bool
) -> Adaptation:
    tensors: dict[str, NDArray[np.float32]] = {}
    heads: dict[str, NDArray[np.float32]] = {}
    rows: list[Basis] = []
    notices: list[str] = []
    for place, layer in enumerate(layers):
        bases = (
            make_bases(layer, place, Init(options.init), options.seed)
            if drawn
            else outlined_bases(layer)
        )
        for suffix, role, array in (("A", Role.BASIS_A, bases.a), ("Bt", Role.BASIS_B, bases.bt)):
            name = f"{layer.name}.{suffix}"
            tensors[name] = array
            rows.append(Basis(name=name, layer=layer.name, role=role, shape=array.shape))
        heads[f"{layer.name}.H"] = np.zeros((layer.heads, layer.rank, layer.rank), np.float32)
        heads[f"{layer.name}.s"] = np.ones(layer.heads, np.float32)
        if bases.notice:
            notices.append(bases.notice)
    complete = settings.model_copy(
        update={"heads": options.heads, "init": Init(options.init).value}
    )
    return Adaptation(
        complete, tuple(layers), tuple(ravan_table(layers)), tuple(rows), tensors, heads,
        tuple(notices),
    )  # fmt: skip


def _fedit(settings: MethodSettings, layers: Sequence[Layer]) -> Adaptation:
    heads: dict[str, NDArray[np.float32]] = {}
    for place, layer in enumerate(layers):
        # Kaiming's uniform with a = sqrt(5), as PEFT draws it: U(-1/sqrt(n), 1/sqrt(n)).
        uniform = Stream(settings.seed, Purpose.BASES, device=place).uniform(
            layer.rank * layer.inputs
        )
        a = (2 * uniform - 1) / math.sqrt(layer.inputs)
        heads[f"{layer.name}.lora_A"] = a.reshape(layer.rank, layer.inputs).astype(np.float32)
        heads[f"{layer.name}.lora_B"] = np.zeros((layer.outputs, layer.rank), np.float32)
    return Adaptation(settings, tuple(layers), tuple(fedit_table(layers)), (), {}, heads, ())
