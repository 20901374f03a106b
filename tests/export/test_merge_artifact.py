"""``--to artifact``: merge and redraw. The new artifact starts where the old one was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ravan_edge.artifact import Role, open_artifact
from ravan_export.merge import merge_artifact
from ravan_export.merge.to_artifact import merged_name, same_plans, same_sizes
from tests.export.merge_kit import artifact_logits


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param("bert", {}, marks=pytest.mark.slow),
        pytest.param(
            "sentence", {"init": "random-normal", "targets": "query"}, marks=pytest.mark.slow
        ),
        pytest.param("roberta", {"method": "fedit", "rank": 3}, marks=pytest.mark.slow),
        ("sentence", {"method": "head-only"}),
    ],
)
def test_it_starts_where_the_old_one_was(
    kind: str, options: dict[str, Any], with_heads: Any, tmp_path: Path
) -> None:
    case = with_heads(kind, **options)
    out = tmp_path / "out"
    merged = merge_artifact(case.artifact, case.heads, "artifact", out, model=case.model)
    expected = artifact_logits(case.artifact, case.heads)
    assert np.abs(artifact_logits(out, None) - expected).max() <= 1e-4
    assert merged.gap is not None
    assert merged.gap.logits <= 1e-4

    old, new = open_artifact(case.artifact), open_artifact(out)
    assert new.manifest.labels == old.manifest.labels
    assert new.manifest.layers == old.manifest.layers
    assert new.manifest.tensors == old.manifest.tensors
    assert new.manifest.method == old.manifest.method.model_copy(update={"seed": 1})
    assert merged.details == {"digest": new.digest, "seed": 1}
    assert new.manifest.model.name == f"{old.manifest.model.name}+7"
    initial = new.initial_heads()
    for entry in new.manifest.tensors:
        if entry.role in {Role.CORE, Role.LORA_B}:
            assert not initial[entry.name].any()
    for basis in new.manifest.bases:
        assert not (new.base[basis.name] == old.base[basis.name]).any()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_layers_keep_their_different_ranks(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("bert", lora_budget=3, targets="query,intermediate.dense")
    merge_artifact(
        case.artifact, case.heads, "artifact", tmp_path / "out", model=case.model, seed=9
    )
    old, new = open_artifact(case.artifact), open_artifact(tmp_path / "out")
    assert new.manifest.layers == old.manifest.layers
    assert {layer.rank for layer in new.manifest.layers} == {4, 5}
    assert new.manifest.method.seed == 9


@pytest.mark.slow
def test_the_chain_goes_on_from_the_merged_model(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("distilbert")
    merge_artifact(case.artifact, case.heads, "hf", tmp_path / "hf", model=case.model)
    first = merge_artifact(
        case.artifact, case.heads, "artifact", tmp_path / "one", model=case.model
    )
    merge_artifact(
        tmp_path / "one", None, "artifact", tmp_path / "two", model=str(tmp_path / "hf"), seed=0
    )
    assert first.details["seed"] == 1
    expected = artifact_logits(case.artifact, case.heads)
    assert np.abs(artifact_logits(tmp_path / "two", None) - expected).max() <= 1e-4
    assert open_artifact(tmp_path / "two").manifest.model.name.endswith("+7+0")


@pytest.mark.slow
def test_the_same_seed_is_said(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("bert")
    merged = merge_artifact(
        case.artifact, case.heads, "artifact", tmp_path / "out", model=case.model, seed=0
    )
    assert "the bases are the same again" in merged.notices[0]


@pytest.mark.slow
def test_plans_are_written_again(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("sentence", method="head-only", plans=("whole", "ort-training"))
    out = tmp_path / "out"
    merge_artifact(case.artifact, case.heads, "artifact", out, model=case.model)
    assert set(open_artifact(out).manifest.plans) == {"whole", "ort-training"}


def test_sizes_of_plans_are_found_again(with_heads: Any) -> None:
    manifest = open_artifact(with_heads("bert").artifact).manifest
    assert same_plans(manifest) == {"plans": ("whole",)}
    fixed = manifest.plans["whole"].model_copy(update={"limits": {"batch": 4, "length": 16}})
    plans = {**manifest.plans, "executorch": fixed, "later": fixed}
    assert same_plans(manifest.model_copy(update={"plans": plans})) == {
        "plans": ("whole", "executorch"), "plan_rows": 4, "plan_length": 16,
    }  # fmt: skip


def test_ranks_are_found_again(with_heads: Any) -> None:
    manifest = open_artifact(with_heads("bert").artifact).manifest
    assert same_sizes(manifest) == {"rank": 4, "heads": 4, "init": "gram-schmidt"}
    assert merged_name("a/b", 3) == "a/b+3"
