"""Sizes that are promised are the sizes that are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ravan_edge.artifact.heads import write_heads
from ravan_edge.artifact.summary import describe, heads_bytes, update_bytes
from ravan_edge.artifact.tensor_file import tensors_to_bytes
from tests.tiny_artifact import LAYER, Method, TinySizes, make_tiny_artifact


@pytest.mark.parametrize("method", ["ravan", "fedit", "head-only"])
def test_heads_bytes_is_exact(tmp_path: Path, method: Method) -> None:
    artifact = make_tiny_artifact(tmp_path / "tiny", method=method)
    for version in (0, 7, 123_456):
        write_heads(tmp_path / "heads", artifact, artifact.initial_heads(), version)
        assert heads_bytes(artifact.manifest, version) == (tmp_path / "heads").stat().st_size


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_update_bytes_is_exact_or_a_close_upper_bound(tmp_path: Path, count: int) -> None:
    manifest = make_tiny_artifact(tmp_path / "tiny").manifest
    tensors = {
        entry.name: np.zeros(entry.shape, np.float32)
        for entry in manifest.tensors
        if entry.role == "task_head"
    }
    if count:
        tensors[f"{LAYER}.D"] = np.zeros((count, 3, 3), np.float32)
        tensors[f"{LAYER}.heads"] = np.arange(count, dtype=np.int32)
    metadata = {
        "format": "ravan-update", "schema": "1", "task": "r1-d7", "version": "3",
        "artifact": "f" * 64, "encoding": "plain", "codec": "fp32", "examples": "800",
        "steps": "50",
    }  # fmt: skip
    size = len(tensors_to_bytes(tensors, metadata))
    for heads in (count, {LAYER: count}):
        assert update_bytes(manifest, heads, metadata) == size
        assert size <= update_bytes(manifest, heads) <= size + 256


def test_all_heads_by_default(tmp_path: Path) -> None:
    manifest = make_tiny_artifact(tmp_path / "tiny").manifest
    assert update_bytes(manifest) == update_bytes(manifest, 4) == update_bytes(manifest, {LAYER: 4})


def test_a_device_downloads_every_file_of_its_plan_once(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "tiny")
    summary = describe(artifact)
    paths = [
        "manifest.json", "base.safetensors", "plans/whole/step.onnx", "plans/whole/eval.onnx",
        "tokenizer/tokenizer.json",
    ]  # fmt: skip
    assert set(summary.plan_blobs["whole"]) == set(paths)
    assert summary.download_once["whole"] == sum(
        (artifact.folder / path).stat().st_size for path in paths
    )
    assert summary.trainable == {"core": 36, "scale": 4, "task_head": 51, "total": 91}
    assert [upload.heads for upload in summary.uploads] == [1, 2, 3, 4]


def test_budgets_that_are_the_same_number_of_heads_are_shown_once(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "tiny", sizes=TinySizes(heads=2))
    assert [upload.heads for upload in describe(artifact).uploads] == [1, 2]
    fedit = make_tiny_artifact(tmp_path / "fedit", method="fedit")
    assert [upload.heads for upload in describe(fedit).uploads] == [None]
