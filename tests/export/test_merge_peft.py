"""``--to peft``: what PEFT makes of the adapter and the original model says what the artifact says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from ravan_edge.artifact import open_artifact
from ravan_edge.errors import UsageError
from ravan_export.merge import merge_artifact
from ravan_export.merge.fold import factors
from tests.export.merge_kit import TEXTS, artifact_logits

pytestmark = pytest.mark.filterwarnings(
    # peft reads a property that transformers has renamed
    "ignore:.*is_gradient_checkpointing:FutureWarning"
)


def tokens(folder: Path) -> Any:
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    return batch


def peft_logits(base: Path, adapter: Path) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(base)
    model = PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        return model(**tokens(base)).logits.numpy()


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("bert", "ravan"),
        ("bert", "fedit"),
        ("bert", "head-only"),
        pytest.param("roberta", "ravan", marks=pytest.mark.slow),
        pytest.param("distilbert", "fedit", marks=pytest.mark.slow),
    ],
)
def test_peft_says_what_the_artifact_says(
    kind: str, method: str, with_heads: Any, tmp_path: Path
) -> None:
    case = with_heads(kind, method=method)
    merged = merge_artifact(case.artifact, case.heads, "peft", tmp_path / "out", model=case.model)
    expected = artifact_logits(case.artifact, case.heads)
    assert np.abs(peft_logits(case.model, tmp_path / "out") - expected).max() <= 1e-4
    assert merged.gap is not None
    assert merged.gap.logits <= 1e-4


def test_an_adapter_of_a_sentence_encoder(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("sentence")
    out = tmp_path / "out"
    merge_artifact(case.artifact, case.heads, "peft", out, model=case.model)
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(case.model), out).eval()
    batch = tokens(case.model)
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy()
    head = load_file(out / "task_head" / "model.safetensors")
    logits = pooled @ head["linear.weight"].T + head["linear.bias"]
    assert np.abs(logits - artifact_logits(case.artifact, case.heads)).max() <= 1e-4


def test_the_exact_adapter_stacks_the_heads(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("bert")
    merged = merge_artifact(case.artifact, case.heads, "peft", tmp_path / "out", model=case.model)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    artifact = open_artifact(case.artifact)
    layer = artifact.manifest.layers[0]
    assert config["r"] == config["lora_alpha"] == layer.heads * layer.rank
    assert config["target_modules"] == [item.name for item in artifact.manifest.layers]
    assert config["modules_to_save"] == ["classifier"]
    assert config["base_model_name_or_path"] == artifact.manifest.model.name
    assert set(merged.details["errors"].values()) == {0.0}
    stored = load_file(tmp_path / "out" / "adapter_model.safetensors")
    a = stored[f"base_model.model.{layer.name}.lora_A.weight"]
    assert (a == artifact.base[f"{layer.name}.A"].reshape(a.shape)).all()


@pytest.mark.slow
def test_layers_of_different_ranks(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("bert", lora_budget=3, targets="query,intermediate.dense")
    merged = merge_artifact(case.artifact, case.heads, "peft", tmp_path / "out", model=case.model)
    assert set(merged.details["ranks"].values()) == {16, 20}
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert set(config["rank_pattern"].values()) == set(config["alpha_pattern"].values()) == {16}
    expected = artifact_logits(case.artifact, case.heads)
    assert np.abs(peft_logits(case.model, tmp_path / "out") - expected).max() <= 1e-4


def test_a_lower_rank_is_the_best_one_and_says_what_it_costs(
    with_heads: Any, tmp_path: Path
) -> None:
    case = with_heads("bert")
    merged = merge_artifact(
        case.artifact, case.heads, "peft", tmp_path / "out", model=case.model, rank=3
    )
    artifact, heads = open_artifact(case.artifact), load_file(case.heads)
    stored = load_file(tmp_path / "out" / "adapter_model.safetensors")
    errors = []
    for layer in artifact.manifest.layers:
        exact = factors(artifact, heads, layer).product
        b, a = (
            stored[f"base_model.model.{layer.name}.lora_{side}.weight"].astype(np.float64)
            for side in "BA"
        )
        assert a.shape == (3, 16)
        found = np.linalg.norm(b @ a - exact) / np.linalg.norm(exact)
        singular = np.linalg.svd(exact, compute_uv=False)
        best = np.sqrt((singular[3:] ** 2).sum() / (singular**2).sum())
        assert found == pytest.approx(best, rel=1e-4)
        assert merged.details["errors"][layer.name] == pytest.approx(best, rel=1e-4)
        errors.append(best)
    assert merged.details["worst_error"] == pytest.approx(max(errors), rel=1e-4)
    assert merged.details["mean_error"] == pytest.approx(np.mean(errors), rel=1e-4)
    expected = artifact_logits(case.artifact, case.heads)
    gap = np.abs(peft_logits(case.model, tmp_path / "out") - expected).max()
    assert gap > 1e-3
    assert merged.gap is not None
    assert merged.gap.logits > 1e-3


@pytest.mark.slow
def test_the_full_rank_by_svd_is_exact(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("roberta", rank=5)  # h r = 20, in matrices of 16 x 16
    merged = merge_artifact(
        case.artifact, case.heads, "peft", tmp_path / "out", model=case.model, rank=16
    )
    assert merged.details["worst_error"] < 1e-12
    expected = artifact_logits(case.artifact, case.heads)
    assert np.abs(peft_logits(case.model, tmp_path / "out") - expected).max() <= 1e-4
    for rank in (0, -1, 17):
        with pytest.raises(UsageError, match="expected 1 to 16"):
            merge_artifact(
                case.artifact, case.heads, "peft", tmp_path / "no", model=case.model, rank=rank
            )


def test_heads_that_are_zero_cost_nothing(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("bert")
    merged = merge_artifact(case.artifact, None, "peft", tmp_path / "out", model=case.model, rank=2)
    assert merged.details["worst_error"] == 0
    expected = artifact_logits(case.artifact, None)
    assert np.abs(peft_logits(case.model, tmp_path / "out") - expected).max() <= 1e-5


def test_head_only_of_a_sentence_encoder_has_nothing_for_peft(
    with_heads: Any, tmp_path: Path
) -> None:
    case = with_heads("sentence", method="head-only")
    with pytest.raises(UsageError, match="nothing inside the model"):
        merge_artifact(case.artifact, case.heads, "peft", tmp_path / "out", model=case.model)
    case = with_heads("bert", method="head-only")
    with pytest.raises(UsageError, match="adapts no layer"):
        merge_artifact(case.artifact, None, "peft", tmp_path / "out", model=case.model, rank=2)
    assert not list(tmp_path.iterdir())
