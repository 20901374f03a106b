"""summary.json: what came out of a run (docs/simulation.md lists the keys)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ravan_edge.artifact import Artifact
from ravan_edge.data import PartitionStatistics
from ravan_edge.simulate.buffered_rounds import ASYNCHRONOUS_STATUSES
from ravan_edge.simulate.prepare import Prepared
from ravan_edge.simulate.rounds import STATUSES
from ravan_edge.simulate.state import Evaluation, RunState
from ravan_edge.tasks import task_for

__all__ = ["WALL_FIELDS", "build_summary"]

WALL_FIELDS = ("seconds", "peak_memory_bytes")
"""Keys in which two equal runs may differ."""


def build_summary(
    artifact: Artifact,
    prepared: Prepared,
    state: RunState,
    configuration: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """The summary of a run whose last round is done."""
    data, manifest = prepared.data, artifact.manifest
    transfer = data.transfer
    perplexity = task_for(manifest).perplexity
    most = max(transfer.upload)
    best = state.best
    statuses = ASYNCHRONOUS_STATUSES if data.settings.rule.is_async else STATUSES
    kept = {} if data.settings.merging.is_plain else {"heads_kept": state.counts["heads_kept"]}
    return {
        "initial": _scores(state.initial, perplexity),
        "final": {"round": state.round, **_scores(state.last, perplexity)}
        if state.last
        else _scores({}, perplexity),
        "best": None if best is None else {"round": best.round, **_scores(best.scores, perplexity)},
        "recent": _recent(state),
        "rounds": state.round,
        "devices": {
            "count": prepared.devices,
            "with_data": len(prepared.eligible),
            **{status: state.counts.get(status, 0) for status in statuses},
            "rounds_without_merge": state.counts.get("rounds_without_merge", 0),
            **kept,
        },
        "upload_bytes_per_update": transfer.upload[most],
        "upload_bytes_by_heads": {str(heads): size for heads, size in transfer.upload.items()},
        "download_bytes_once": transfer.download_once,
        "download_bytes_per_round": transfer.download_per_round,
        "model_bytes": manifest.model.bytes,
        "total_download_bytes": state.download_bytes,
        "total_upload_bytes": state.upload_bytes,
        "peak_memory_bytes": state.peak_bytes,
        "seconds": state.wall_seconds,
        "simulated_seconds": state.simulated_seconds,
        "per_class": _per_class(manifest.labels, state),
        "partition": _partition(prepared.statistics, data.settings.local.batch_size)
        | {"skipped_rows": prepared.skipped_rows},
        "rows": {
            "train": len(data.examples),
            **{name: len(rows.rows) for name, rows in data.sets.items()},
        },
        "artifact": {
            "digest": artifact.digest,
            "model": manifest.model.name,
            "architecture": manifest.model.architecture,
            "license": manifest.model.license,
            "parameters": manifest.model.parameters,
            "task": manifest.task,
            "layers": len(manifest.layers),
            "method": manifest.method.name,
            "heads": manifest.method.heads,
            "rank": manifest.method.rank,
            "trainable_numbers": len(state.heads),
        },
        **configuration_keys(configuration),
        **provenance,
    }


def configuration_keys(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what the summary says elsewhere."""
    return {key: configuration[key] for key in ("settings", "data", "versions")}


def _scores(evaluation: Evaluation, perplexity: bool) -> dict[str, Any]:
    """The test set's figures by their short names, validation's beside them."""
    figures: dict[str, Any] = {}
    for name, prefix in (("test", ""), ("validation", "validation_")):
        found = evaluation.get(name)
        loss = None if found is None else found.loss
        figures[f"{prefix}accuracy"] = None if found is None else found.accuracy
        figures[f"{prefix}loss"] = loss
        if perplexity:
            figures[f"{prefix}perplexity"] = None if loss is None else math.exp(min(loss, 700.0))
    return figures


def _recent(state: RunState) -> dict[str, Any]:
    """Means over the last evaluated rounds, where one round's figure is too noisy to compare."""
    values: dict[str, Any] = {"rounds": len(state.recent)}
    for key, name in (("accuracy", "test"), ("validation_accuracy", "validation")):
        found = [scores[name].accuracy for scores in state.recent if name in scores]
        values[key] = math.fsum(found) / len(found) if found else None
    return values


def _per_class(labels: tuple[str, ...], state: RunState) -> list[dict[str, Any]]:
    """Rows and accuracy of each class on the test set (else validation), before and after."""
    name = "test" if "test" in state.last else "validation"
    if not labels or name not in state.last or name not in state.initial:
        return []
    before, after = state.initial[name].per_class, state.last[name].per_class
    return [
        {
            "label": label,
            "rows": rows,
            "initial_accuracy": first / rows if rows else None,
            "accuracy": right / rows if rows else None,
        }
        for label, (_, first), (rows, right) in zip(labels, before, after, strict=True)
    ]


def _partition(statistics: PartitionStatistics, batch_size: int) -> dict[str, Any]:
    rows = statistics.rows[statistics.rows > 0]
    classes = statistics.classes[statistics.rows > 0]
    return {
        "devices_without_data": statistics.empty,
        "devices_below_one_batch": int((rows < batch_size).sum()),
        "rows": _spread(rows),
        "classes": _spread(classes),
    }


def _spread(values: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, float]:
    return {
        "least": int(values.min()),
        "median": float(np.median(values)),
        "most": int(values.max()),
    }
