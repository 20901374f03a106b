"""``--to peft``: the heads as a LoRA adapter in PEFT's format, exact or of a lower rank.

The files are written here, since peft is needed by nobody else; tests read them with peft.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ravan_edge.artifact.opening import Artifact
from ravan_edge.artifact.tensor_file import write_tensors
from ravan_edge.errors import UsageError
from ravan_export.merge.check_torch import check_torch
from ravan_export.merge.fold import Factors, factors, truncated
from ravan_export.merge.folder import MergedFolder, writing
from ravan_export.merge.original import Original, load_original
from ravan_export.merge.to_hf import add_task_head, external_head
from ravan_export.merge.work import Heads, Work

__all__ = ["Adapter", "adapter_of", "merge_peft"]

# A model's own head is trained in full: PEFT must wrap the model as what it is.
_TASK_TYPES = {
    "text-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "causal-lm": "CAUSAL_LM",
    "seq2seq": "SEQ_2_SEQ_LM",
}
_NO_LAYERS = "dummy-target-modules"
"""What PEFT calls an adapter that adapts no layer (``head-only``)."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """LoRA factors of all layers.

    Args:
        layers: In the manifest's order; W' = W + b a.
        errors: By layer, ||found - exact|| / ||exact|| of what is added; 0 where it is exact.
    """

    layers: tuple[Factors, ...]
    errors: Mapping[str, float]


def merge_peft(work: Work, rank: int | None) -> None:
    """Write the adapter; see :func:`ravan_export.merge.merge_artifact`.

    Raises:
        UsageError: The rank is out of range, or there is nothing that PEFT could hold.
        ModelError: The model is not there, or is another one.
        StorageError: The disk is full, or the like.
    """
    adapter = adapter_of(work.artifact, work.heads, rank)
    work.progress("loading the model")
    original = load_original(
        work.artifact, work.model, torch.float32, trust=work.trust, announce=work.announce
    )
    work.notices.extend(original.notices)
    head = external_head(work.artifact, work.heads, original)
    _write(work.artifact, work.heads, original, adapter, work.folder)
    if head is not None:
        work.notices.append(add_task_head(work.folder, head))
    errors = adapter.errors
    work.details["ranks"] = {item.layer.name: item.rank for item in adapter.layers}
    work.details["errors"] = dict(errors)
    if errors:
        work.details["worst_error"] = max(errors.values())
        work.details["mean_error"] = sum(errors.values()) / len(errors)
    work.progress("comparing it with the artifact")
    _add(original, work.heads, adapter)
    work.compared(check_torch(original.model, work.expected, head), exact=rank is None)


def adapter_of(artifact: Artifact, heads: Heads, rank: int | None) -> Adapter:
    """The exact adapter (rank h r), or the best one of a lower rank.

    Raises:
        UsageError: ``rank`` is not in 1 .. the exact adapter's.
    """
    exact = [factors(artifact, heads, layer) for layer in artifact.manifest.layers]
    if rank is None:
        return Adapter(tuple(exact), {item.layer.name: 0.0 for item in exact})
    most = max((min(item.rank, item.layer.outputs, item.layer.inputs) for item in exact), default=0)
    if not 1 <= rank <= most:
        raise UsageError(
            f"{rank} is out of range, expected 1 to {most}"
            if most
            else "this method adapts no layer",
            where="--rank",
            hint="leave it out for the exact adapter",
        )
    found = [truncated(item, rank) for item in exact]
    return Adapter(
        tuple(item for item, _ in found), {item.layer.name: error for item, error in found}
    )


def _write(
    artifact: Artifact, heads: Heads, original: Original, adapter: Adapter, folder: MergedFolder
) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

    Args:
        artifact: An opened artifact.
        heads: Its heads; the task head is stored whole, where the model has one of its own.
        original: The model.
        adapter: From :func:`adapter_of`.
        folder: Where to.

    Raises:
        UsageError: There is neither a layer nor a task head that PEFT could hold.
        StorageError: The disk is full, or the like.
    """
    own = original.task_head or {}
    if not adapter.layers and not own:
        raise UsageError(
            "head-only trains nothing inside the model that an adapter could hold",
            where="--to",
            hint="take --to hf",
        )
    tensors: dict[str, NDArray[Any]] = {}
    for item in adapter.layers:
        prefix = f"base_model.model.{item.layer.name}"
        tensors[f"{prefix}.lora_A.weight"] = item.a.astype(np.float32)
        tensors[f"{prefix}.lora_B.weight"] = item.b.astype(np.float32)
    for name, place in own.items():
        tensors[f"base_model.model.{place}"] = heads[name]
    modules = list(dict.fromkeys(place.split(".")[0] for place in own.values()))
    folder.add_json("adapter_config.json", _config(artifact, adapter, modules))
    with writing(folder.destination / "adapter_model.safetensors"):
        write_tensors(
            folder.path / "adapter_model.safetensors", tensors, {"format": "pt"}, durable=False
        )


def _add(original: Original, heads: Heads, adapter: Adapter) -> None:
    """Add the numbers that were written to the loaded model, in place: what PEFT will compute."""
    with torch.no_grad():
        for item in adapter.layers:
            weight = original.model.get_parameter(f"{item.layer.name}.weight")
            b, a = (torch.from_numpy(side.astype(np.float32)).double() for side in (item.b, item.a))
            weight.copy_(weight.double() + b @ a)
        for name, place in (original.task_head or {}).items():
            original.model.get_parameter(place).copy_(torch.from_numpy(heads[name]))


def _config(artifact: Artifact, adapter: Adapter, modules: list[str]) -> dict[str, Any]:
    ranks = {item.layer.name: item.rank for item in adapter.layers}
    usual = max(ranks.values(), default=1)
    others = {name: rank for name, rank in ranks.items() if rank != usual}
    manifest = artifact.manifest
    return {
        "peft_type": "LORA",
        "task_type": _TASK_TYPES.get(manifest.task) if modules or not manifest.labels else None,
        "base_model_name_or_path": manifest.model.name,
        "target_modules": list(ranks) or _NO_LAYERS,
        "r": usual,
        "lora_alpha": usual,  # alpha / r = 1: the factor is in B
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": modules or None,
    }
