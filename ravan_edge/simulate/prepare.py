"""Before the first round: data read and dealt out, and settings checked against artifact and data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact import Artifact, Manifest, describe, heads_bytes, update_bytes
from ravan_edge.data import (
    Dataset,
    PartitionStatistics,
    describe_partition,
    partition,
    validation_split,
)
from ravan_edge.errors import UsageError
from ravan_edge.methods import Method, method_for
from ravan_edge.plans import check_plan
from ravan_edge.simulate.clock import Clock, flops_per_token
from ravan_edge.simulate.messages import EvaluationSet, OpenData, Transfer
from ravan_edge.simulate.settings import SimulationSettings
from ravan_edge.tasks import DataSource, fixed_length, row_classes, task_for, text_length

__all__ = ["Prepared", "check_settings", "partition_document", "prepare"]

OnRows = Callable[[str, int, int], None]
"""Told what is tokenised, rows done, rows in all."""

_MOST_COUNTS = 2_000_000


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start.

    Args:
        data: What every worker gets.
        statistics: How rows lie on devices.
        eligible: Devices that have data, ascending, int64.
        skipped_rows: Rows with an empty text that were left out.
        method: Of the artifact.
    """

    data: OpenData
    statistics: PartitionStatistics
    eligible: NDArray[np.int64]
    skipped_rows: int
    method: Method

    @property
    def devices(self) -> int:
        """How many there are, those without data among them."""
        return len(self.data.heads)


def check_settings(settings: SimulationSettings, manifest: Manifest) -> None:
    """Refuse settings that do not fit an artifact.

    Raises:
        UsageError: Names the option.
        ArtifactError: The artifact does not have the plan.
    """
    task = task_for(manifest)
    if settings.partition_spec.kind == "dirichlet" and not task.row_labels:
        raise UsageError(
            f"dirichlet deals rows out by their label, and rows of task {task.name!r} have none",
            where="--partition",
            hint="use iid, or column:NAME for natural users",
        )
    check_plan(settings.plan, manifest)
    text_length(manifest.text, settings.max_length, fixed_length(manifest, settings.plan))
    budgets = settings.budgets
    if budgets is None:
        return
    if manifest.method.name != "ravan":
        raise UsageError(
            f"method {manifest.method.name!r} has no heads to choose from",
            where="--head-budgets",
            hint="leave it out, or export the model with --method ravan",
        )
    most = min(layer.heads for layer in manifest.layers)
    largest = budgets.shares[-1][0]
    if largest > most:
        raise UsageError(
            f"{largest} heads, but a layer has {most}",
            where="--head-budgets",
            hint=f"use at most {most}",
        )


def prepare(
    artifact: Artifact,
    train: Path,
    test: Path | None,
    settings: SimulationSettings,
    on_rows: OnRows | None = None,
) -> Prepared:
    """Read, tokenise, split and deal out the data.

    Raises:
        UsageError: Settings do not fit artifact or data.
        DataError: A data file is refused.
        MissingExtraError: A parquet file without pyarrow.
    """
    manifest = artifact.manifest
    check_settings(settings, manifest)
    task, spec = task_for(manifest), settings.partition_spec
    skipped = 0

    def read(path: Path, name: str, user_column: str | None) -> Dataset:
        nonlocal skipped
        source = DataSource(
            path,
            text_column=settings.text_column,
            label_column=settings.label_column,
            user_column=user_column,
            skip_empty=settings.skip_empty,
            max_length=text_length(manifest.text, settings.max_length),
        )
        progress = None if on_rows is None else partial(on_rows, f"reading {name}")
        loaded = task.load(artifact, source, progress)
        skipped += loaded.skipped
        return loaded.dataset

    train_set = read(train, "training rows", spec.column)
    sets: dict[str, EvaluationSet] = {}
    labels = row_classes(train_set, task)
    kept, validation = validation_split(len(train_set), labels, settings.validation, settings.seed)
    if len(validation):
        sets["validation"] = EvaluationSet(train_set, validation, settings.evaluation_batch)
    if test is not None:
        test_set = read(test, "test rows", None)
        everything = np.arange(len(test_set), dtype=np.int64)
        sets["test"] = EvaluationSet(test_set, everything, settings.evaluation_batch)
    users = None if train_set.users is None else train_set.users[kept]
    parts = [
        kept[part]
        for part in partition(labels[kept], users, spec, settings.device_count, settings.seed)
    ]
    statistics = describe_partition(parts, labels, len(manifest.labels) if task.row_labels else 1)
    eligible = np.flatnonzero(statistics.rows).astype(np.int64)
    if settings.per_round > len(eligible):
        raise UsageError(
            f"{settings.per_round} devices a round, but only {len(eligible)} of {len(parts)} have data",
            where="--per-round",
            hint=f"use at most {len(eligible)}",
        )
    if settings.goal > len(eligible):
        raise UsageError(
            f"{settings.goal} updates make a version, but only {len(eligible)} of {len(parts)} "
            "devices have data",
            where="--buffer",
            hint=f"use at most {len(eligible)}",
        )
    heads = _heads_of_devices(settings, manifest, len(parts))
    data = OpenData(
        settings=settings,
        train=train_set,
        examples=np.concatenate(parts),
        offsets=np.concatenate([[0], np.cumsum(statistics.rows)]).astype(np.int64),
        heads=heads,
        clock=_clock(settings, manifest, heads),
        transfer=_transfer(settings, artifact, heads),
        scale=settings.scale,
        sets=sets,
    )
    _check_deadline(data, statistics, eligible)
    return Prepared(data, statistics, eligible, skipped, method_for(manifest))


def partition_document(prepared: Prepared, manifest: Manifest) -> dict[str, Any]:
    """partition.json: how rows lie on devices.

    Counts by class are left out where they are too many, or rows have no classes (no labels).
    """
    statistics = prepared.statistics
    labels = manifest.labels if task_for(manifest).row_labels else ()
    few = statistics.counts.size <= _MOST_COUNTS
    counts = statistics.counts.tolist() if few and labels else None
    return {
        "labels": list(labels),
        "rows": statistics.rows.tolist(),
        "classes": statistics.classes.tolist(),
        "heads": prepared.data.heads.tolist(),
        "counts": counts,
    }


def _heads_of_devices(
    settings: SimulationSettings, manifest: Manifest, devices: int
) -> NDArray[np.int32]:
    """K of each device, int32 [devices]; 0 for methods without heads."""
    if settings.budgets is not None:
        return settings.budgets.deal(devices, settings.seed)
    ravan = manifest.method.name == "ravan"
    most = max((layer.heads for layer in manifest.layers), default=0) if ravan else 0
    return np.full(devices, most, dtype=np.int32)


def _clock(settings: SimulationSettings, manifest: Manifest, heads: NDArray[np.int32]) -> Clock:
    return Clock.draw(
        len(heads),
        {int(count): flops_per_token(manifest, int(count)) for count in np.unique(heads)},
        seed=settings.seed,
        gflops=settings.device_gflops,
        speed_spread=settings.device_spread,
        download_mbps=settings.download_mbps,
        upload_mbps=settings.upload_mbps,
        bandwidth_spread=settings.bandwidth_spread,
    )


def _transfer(
    settings: SimulationSettings, artifact: Artifact, heads: NDArray[np.int32]
) -> Transfer:
    """Exact sizes: the metadata's numbers as wide as they get in this run."""
    manifest = artifact.manifest
    metadata = {
        "format": "ravan-update",
        "schema": "1",
        "task": "0" * 32,
        "version": str(settings.rounds),
        "artifact": artifact.digest,
        "encoding": "plain",
        "codec": "fp32",
        "examples": str(settings.local.local_steps * settings.local.batch_size),
        "steps": str(settings.local.local_steps),
    }
    return Transfer(
        download_once=describe(artifact).download_once[settings.plan],
        download_per_round=heads_bytes(manifest, settings.rounds),
        upload={
            int(count): update_bytes(manifest, int(count) or None, metadata, settings.upload.coder)
            for count in np.unique(heads)
        },
    )


def _check_deadline(
    data: OpenData, statistics: PartitionStatistics, eligible: NDArray[np.int64]
) -> None:
    """Refuse a deadline that nobody can meet even with the base already there."""
    settings = data.settings
    if settings.deadline_seconds is None:
        return
    local = settings.local
    lengths = data.train.lengths
    fastest = np.inf
    for device in eligible.tolist():
        rows = int(statistics.rows[device])
        mean_tokens = lengths[data.examples[data.offsets[device] : data.offsets[device + 1]]].mean()
        passes, rest = divmod(local.local_steps, -(-rows // local.batch_size))
        seen = passes * rows + min(rest * local.batch_size, rows)
        time = data.clock.device_time(
            device,
            heads=int(data.heads[device]),
            tokens=float(seen * mean_tokens),
            download_bytes=data.transfer.download_per_round,
            upload_bytes=data.transfer.upload[int(data.heads[device])],
        )
        fastest = min(fastest, time.total)
    if fastest > settings.deadline_seconds:
        raise UsageError(
            f"{settings.deadline_seconds:g} simulated seconds are too short for every device; the "
            f"fastest needs about {fastest:.3g}",
            where="--deadline-seconds",
            hint="use a longer one, fewer --local-steps, or a higher --device-gflops",
        )
