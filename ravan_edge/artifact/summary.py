"""What a person wants to know about an artifact: sizes, trainable numbers, bytes on the wire."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ravan_edge.artifact.heads import heads_metadata
from ravan_edge.artifact.manifest import ConformanceCase, Layer, Manifest, TensorEntry
from ravan_edge.artifact.opening import Artifact
from ravan_edge.artifact.tensor_header import planned_header
from ravan_edge.codecs import Codec

__all__ = [
    "ArtifactSummary",
    "LayerSummary",
    "PlanSummary",
    "Trained",
    "UploadSummary",
    "describe",
    "heads_bytes",
    "update_bytes",
]

_BUDGETS = (0.25, 0.5, 0.75, 1.0)

# The longest metadata that section 8 of docs/artifact.md allows, numbers up to 12 digits.
_WIDEST_UPDATE_METADATA = {
    "format": "ravan-update",
    "schema": "1",
    "task": "0" * 64,
    "version": "0" * 12,
    "artifact": "0" * 64,
    "encoding": "masked",
    "codec": "fp32",
    "examples": "0" * 12,
    "steps": "0" * 12,
}


class Trained(Protocol):
    """What decides the size of heads and updates: a manifest, or a plan for one."""

    @property
    def tensors(self) -> Sequence[TensorEntry]:
        """The tensor table."""

    @property
    def layers(self) -> Sequence[Layer]:
        """The adapted layers."""


@dataclass(frozen=True)
class LayerSummary:
    """One adapted layer: its name, outputs m, inputs n, heads h, rank r."""

    name: str
    outputs: int
    inputs: int
    heads: int
    rank: int


@dataclass(frozen=True)
class UploadSummary:
    """The update of a device that trains this part of the heads (``budget`` 0 .. 1)."""

    budget: float
    heads: int | None
    bytes: int
    times_smaller_than_model: float


@dataclass(frozen=True)
class PlanSummary:
    """One plan: what ``Plan`` of the manifest says about sizes, memory and exactness."""

    limits: Mapping[str, int]
    planned_bytes: int | None
    worst_error: float | None


@dataclass(frozen=True)
class ArtifactSummary:
    """What ``ravan inspect`` shows. Sizes are in bytes.

    Attributes:
        digest: The artifact digest.
        model, architecture, family, license: Of the pretrained model.
        model_parameters, model_bytes: Of the pretrained model.
        task: What it is for.
        labels: The label map.
        method: Name of the method.
        settings: The method's settings that are not null.
        layers: The adapted layers.
        trainable: Trainable numbers per role, and ``total``.
        plans: By name.
        download_once: Per plan, what a device fetches once: base, graphs, tokenizer, manifest.
        plan_blobs: Per plan, the size of each of those files.
        download_per_round: The heads of one version.
        uploads: One update, for a quarter of the heads to all of them: an upper bound that is at
            most the width of its metadata (about 150 bytes) above the exact size.
        conformance_tolerance: None where nothing was compared.
        conformance: What the exporter saw, by case.
        notices: What the exporter said.
    """

    digest: str
    model: str
    architecture: str
    family: str
    license: str | None
    model_parameters: int
    model_bytes: int
    task: str
    labels: tuple[str, ...]
    method: str
    settings: Mapping[str, str | int | float]
    layers: tuple[LayerSummary, ...]
    trainable: Mapping[str, int]
    plans: Mapping[str, PlanSummary]
    download_once: Mapping[str, int]
    plan_blobs: Mapping[str, Mapping[str, int]]
    download_per_round: int
    uploads: tuple[UploadSummary, ...]
    conformance_tolerance: float | None
    conformance: tuple[ConformanceCase, ...]
    notices: tuple[str, ...]


def describe(artifact: Artifact) -> ArtifactSummary:
    """The summary of an opened artifact."""
    manifest = artifact.manifest
    model, method = manifest.model, manifest.method
    blobs = _plan_blobs(artifact)
    settings = method.model_dump(exclude={"name", "targets"}, exclude_none=True)
    if method.targets:
        settings["targets"] = ", ".join(method.targets)
    stored = manifest.conformance
    return ArtifactSummary(
        digest=artifact.digest,
        model=model.name,
        architecture=model.architecture,
        family=model.family,
        license=model.license,
        model_parameters=model.parameters,
        model_bytes=model.bytes,
        task=manifest.task,
        labels=manifest.labels,
        method=method.name,
        settings=settings,
        layers=tuple(LayerSummary(**layer.model_dump()) for layer in manifest.layers),
        trainable=_trainable(manifest),
        plans={name: _plan(manifest, name) for name in manifest.plans},
        download_once={plan: sum(files.values()) for plan, files in blobs.items()},
        plan_blobs=blobs,
        download_per_round=heads_bytes(manifest),
        uploads=_uploads(manifest),
        conformance_tolerance=None if stored is None else stored.tolerance,
        conformance=() if stored is None else stored.cases,
        notices=manifest.notices,
    )


def _plan(manifest: Manifest, name: str) -> PlanSummary:
    plan, stored = manifest.plans[name], manifest.conformance
    worst = plan.worst_error
    if worst is None and name == "whole" and stored is not None:
        worst = max((case.worst_error for case in stored.cases), default=None)
    return PlanSummary(dict(plan.limits), plan.planned_bytes, worst)


def heads_bytes(manifest: Trained, version: int = 0) -> int:
    """The exact size of the heads file of a version, as ``write_heads`` writes it."""
    tensors = {entry.name: ("F32", entry.shape) for entry in manifest.tensors}
    return planned_header(tensors, heads_metadata(version, "0" * 64)).file_bytes


def update_bytes(
    manifest: Trained,
    heads_trained: int | Mapping[str, int] | None = None,
    metadata: Mapping[str, str] | None = None,
    codec: Codec | None = None,
) -> int:
    """The size of an update file (section 8 of docs/artifact.md), with its header.

    Args:
        manifest: Of the artifact.
        heads_trained: K, for every layer or by layer (0: the layer is left out); None: all heads.
            Without meaning for methods that have no heads.
        metadata: The update's own, for the exact size. None: the widest there can be, for an upper
            bound that is a multiple of 64 bytes at most 256 above the exact size.
        codec: How the numbers are written; None: fp32.
    """
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    numbers = 0
    heads = {layer.name: layer.heads for layer in manifest.layers}
    for entry in manifest.tensors:
        if entry.role == "core" and entry.layer is not None:
            count = heads[entry.layer]
            if isinstance(heads_trained, int):
                count = min(count, heads_trained)
            elif heads_trained is not None:
                count = heads_trained.get(entry.layer, 0)
            if count:
                numbers += count * math.prod(entry.shape[1:])
                tensors[f"{entry.layer}.heads"] = ("I32", (count,))
                if codec is None:
                    tensors[f"{entry.layer}.D"] = ("F32", (count, *entry.shape[1:]))
        elif entry.role != "scale":
            numbers += entry.size
            if codec is None:
                tensors[entry.name] = ("F32", entry.shape)
    known = _WIDEST_UPDATE_METADATA if metadata is None else metadata
    if codec is not None:
        tensors |= codec.forms(numbers)
        known = {**known, "codec": codec.name}
    return planned_header(tensors, known).file_bytes


def _plan_blobs(artifact: Artifact) -> dict[str, dict[str, int]]:
    """Per plan, every file a device fetches once, with its size."""
    manifest = artifact.manifest
    shared = {"manifest.json": len(manifest.to_bytes())}
    if manifest.text is not None:
        # A tokenizer is the folder of its file.
        folder = manifest.text.tokenizer.rpartition("/")[0] + "/"
        paths = [path for path in manifest.files if folder != "/" and path.startswith(folder)]
        for path in {manifest.text.tokenizer, *paths}:
            shared[path] = manifest.files[path].size
    blobs = {}
    for name, plan in manifest.plans.items():
        own = {path: manifest.files[path].size for path in (*plan.blobs, *plan.graphs.values())}
        blobs[name] = dict(sorted((shared | own).items()))
    return blobs


def _trainable(manifest: Manifest) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for entry in manifest.tensors:
        numbers[entry.role.value] = numbers.get(entry.role.value, 0) + entry.size
    return numbers | {"total": sum(numbers.values())}


def _uploads(manifest: Manifest) -> tuple[UploadSummary, ...]:
    most = max((layer.heads for layer in manifest.layers), default=0)
    per_head = manifest.method.name == "ravan"
    uploads = {}
    for budget in _BUDGETS if per_head else (1.0,):
        heads = max(1, round(budget * most)) if per_head else None
        size = update_bytes(manifest, heads)
        ratio = manifest.model.bytes / size
        uploads[heads] = UploadSummary(budget, heads, size, ratio)  # few heads: budgets coincide
    return tuple(uploads.values())
