"""``--to artifact``: the heads merged into the base of a new artifact with fresh bases, H = 0."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from ravan_edge.artifact.manifest import Layer, Manifest
from ravan_edge.artifact.opening import open_artifact
from ravan_edge.errors import ArtifactError
from ravan_edge.files import storage_errors
from ravan_edge.methods import method_for, rank_for_lora_budget
from ravan_export.export import Exported, export_artifact
from ravan_export.merge.check import Expected, Gap, expectations, gap_of
from ravan_export.merge.folder import MergedFolder
from ravan_export.merge.original import Original, load_original
from ravan_export.merge.to_hf import fold_model, write_hf
from ravan_export.merge.work import Work
from ravan_export.plans import FURTHER_PLANS

__all__ = ["merge_to_artifact", "merged_name", "same_plans", "same_sizes"]

_MOST_BUDGET = 65_536


def merged_name(name: str, version: int) -> str:
    """What the manifest calls a merged model; no hub id has a plus, so none is mistaken for it."""
    return f"{name}+{version}"


def same_sizes(manifest: Manifest) -> dict[str, Any]:
    """Export options that give every layer the heads, rank and bases it has.

    Raises:
        ArtifactError: There are none.
    """
    layers, method = manifest.layers, manifest.method
    ranks = {layer.rank for layer in layers}
    if not layers:
        return {}
    same: dict[str, Any] = {}
    if method.name == "ravan":
        same = {"heads": layers[0].heads, "init": method.init}
    if len(ranks) == 1:
        return {"rank": ranks.pop(), **same}
    for budget in range(1, _MOST_BUDGET):
        found = [_rank(budget, layer) for layer in layers]
        if found == [layer.rank for layer in layers]:
            return {"lora_budget": budget, **same}
        if min(found) > max(ranks):
            break
    raise ArtifactError(
        "its layers have ranks that no export makes", where="manifest.json",
        hint="merge to hf, and export that with your own --rank",
    )  # fmt: skip


def _rank(budget: int, layer: Layer) -> int:
    return rank_for_lora_budget(budget, layer.outputs, layer.inputs, layer.heads)


def merge_to_artifact(work: Work, seed: int | None) -> None:
    """Export the merged model with the artifact's own settings and another seed.

    Args:
        work: The merge; see :func:`ravan_export.merge.merge_artifact`.
        seed: Of the fresh bases; None: the old one plus 1.

    Raises:
        ModelError: The model is not there, is another one, or cannot be exported exactly.
        NumericsError: A merged weight is too large.
        StorageError: The disk is full, or the like.
    """
    old = work.artifact.manifest.method
    seed = old.seed + 1 if seed is None else seed
    if seed == old.seed and work.artifact.manifest.layers:
        work.notices.append(f"seed {seed} is the old artifact's: the bases are the same again")
    work.progress("loading the model")
    # In float32 whatever it is stored as: rounding again would move the model.
    original = load_original(
        work.artifact, work.model, torch.float32, trust=work.trust, announce=work.announce
    )
    work.notices.extend(original.notices)
    fold_model(work.artifact, work.heads, original)
    exported = _export(work, original, seed)
    work.details |= {"digest": exported.digest, "seed": seed}
    work.compared(_check(work.folder.path, work.expected))


def _export(work: Work, original: Original, seed: int) -> Exported:
    manifest, folder = work.artifact.manifest, work.folder
    with storage_errors(folder.destination, "make the folder"):
        place = tempfile.TemporaryDirectory(dir=folder.destination.parent, prefix=".ravan-merge.")
    with place as name, MergedFolder(Path(name) / "model") as model:
        write_hf(work.artifact, original, model)
        return export_artifact(
            model.path,
            manifest.task,
            manifest.labels or None,
            folder.path,
            method=manifest.method.name,
            targets=",".join(manifest.method.targets) or None,
            seed=seed,
            name=merged_name(manifest.model.name, work.version),
            task_head={
                key: array for key, array in work.heads.items() if key.startswith("task_head.")
            },
            trust_remote_code=original.trust.trust_remote_code,
            progress=work.progress,
            announce=work.announce,
            **same_sizes(manifest),
            **same_plans(manifest),
        )


def same_plans(manifest: Manifest) -> dict[str, Any]:
    """Export options that write the plans that it has, those of fixed sizes with the same ones.

    A plan that this version does not know is left out.
    """
    known = [name for name in FURTHER_PLANS if name in manifest.plans]
    same: dict[str, Any] = {"plans": ("whole", *known)}
    for name in known:
        limits = manifest.plans[name].limits
        same |= {"plan_rows": limits["batch"]} if "batch" in limits else {}
        same |= {"plan_length": limits["length"]} if "length" in limits else {}
    return same


def _check(folder: Path, expected: list[Expected]) -> Gap:
    """Run the new artifact, untrained, on the same batches as the old one."""
    artifact = open_artifact(folder)
    initial = method_for(artifact.manifest).layout.pack(artifact.initial_heads())
    total = Gap(0.0, 0, 0)
    for old, new in zip(
        expected, expectations(artifact, initial, [dict(item.batch) for item in expected]),
        strict=True,
    ):  # fmt: skip
        if new.logits is None:
            total += Gap(abs(new.loss - old.loss), 0, 0)
        else:
            total += gap_of(old, new.logits)
    return total
