"""``--to hf``: what transformers loads says what the artifact says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from ravan_edge.artifact import open_artifact
from ravan_edge.errors import ModelError, NumericsError
from ravan_export.export import export_artifact
from ravan_export.merge import merge_artifact
from ravan_export.merge.fold import factors
from ravan_export.merge.original import load_original
from ravan_export.merge.to_hf import fold_model
from tests.export.merge_kit import TEXTS, artifact_logits, trained


def classifier_logits(folder: Path, texts: list[str] = TEXTS) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        return model(**batch).logits.float().numpy()


def sentence_logits(folder: Path, head: Path, texts: list[str] = TEXTS) -> Any:
    import sentence_transformers as sentence
    from sentence_transformers.sentence_transformer import modules as parts

    modules = [*sentence.SentenceTransformer(str(folder)), parts.Normalize()]
    modules.append(parts.Dense.load(str(head)))
    classifier = sentence.SentenceTransformer(modules=modules)
    return classifier.encode(texts, show_progress_bar=False, convert_to_numpy=True)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("bert", "ravan"),
        ("bert", "fedit"),
        ("bert", "head-only"),
        pytest.param("roberta", "ravan", marks=pytest.mark.slow),
        pytest.param("distilbert", "ravan", marks=pytest.mark.slow),
    ],
)
def test_a_classifier_says_what_the_artifact_says(
    kind: str, method: str, with_heads: Any, tmp_path: Path
) -> None:
    case = with_heads(kind, method=method)
    merged = merge_artifact(case.artifact, case.heads, "hf", tmp_path / "out", model=case.model)
    found = classifier_logits(tmp_path / "out")
    expected = artifact_logits(case.artifact, case.heads)
    assert np.abs(found - expected).max() <= 1e-4
    assert np.abs(expected - artifact_logits(case.artifact, None)).max() > 0.05
    assert merged.gap is not None
    assert merged.gap.logits <= 1e-4
    assert merged.details["dtype"] == "float32"
    assert merged.version == 7


def test_the_folder_has_what_belongs_to_a_model(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("bert")
    merge_artifact(case.artifact, case.heads, "hf", tmp_path / "out", model=case.model)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "config.json", "model.safetensors", "ravan_merge.json", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    labels = open_artifact(case.artifact).manifest.labels
    assert config["id2label"] == {str(index): label for index, label in enumerate(labels)}
    assert config["label2id"] == {label: index for index, label in enumerate(labels)}
    assert config["architectures"] == ["BertForSequenceClassification"]
    record = json.loads((tmp_path / "out" / "ravan_merge.json").read_text())
    assert record["artifact"] == open_artifact(case.artifact).digest
    assert record["version"] == 7
    assert str(tmp_path) not in json.dumps([config, record])


def test_only_adapted_weights_and_the_task_head_change(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("bert")
    merge_artifact(case.artifact, case.heads, "hf", tmp_path / "out", model=case.model)
    before = load_file(case.model / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    artifact = open_artifact(case.artifact)
    adapted = {f"{layer.name}.weight" for layer in artifact.manifest.layers}
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == adapted | {"classifier.weight", "classifier.bias"}


def test_the_fold_is_the_papers_sum_rounded_once(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("bert")
    merge_artifact(case.artifact, case.heads, "hf", tmp_path / "out", model=case.model)
    artifact, heads = open_artifact(case.artifact), load_file(case.heads)
    before = load_file(case.model / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    for layer in artifact.manifest.layers:
        total = before[f"{layer.name}.weight"].astype(np.float64)
        for index in range(layer.heads):
            b = artifact.base[f"{layer.name}.Bt"][index].T.astype(np.float64)
            a = artifact.base[f"{layer.name}.A"][index].astype(np.float64)
            core = heads[f"{layer.name}.H"][index].astype(np.float64)
            total += heads[f"{layer.name}.s"][index] * (b @ core @ a)
        np.testing.assert_allclose(after[f"{layer.name}.weight"], total, rtol=2e-7, atol=1e-9)


def test_a_sentence_encoder_keeps_its_form_and_gets_a_head_beside_it(
    with_heads: Any, tmp_path: Path
) -> None:
    case = with_heads("sentence")
    out = tmp_path / "out"
    merged = merge_artifact(case.artifact, case.heads, "hf", out, model=case.model)
    assert "task_head/" in merged.notices[0]
    expected = artifact_logits(case.artifact, case.heads)
    assert np.abs(sentence_logits(out, out / "task_head") - expected).max() <= 1e-4

    # The formula of docs/merge.md, with transformers and torch alone.
    batch = AutoTokenizer.from_pretrained(out)(TEXTS, padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    head = load_file(out / "task_head" / "model.safetensors")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(out)(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy()
    logits = pooled @ head["linear.weight"].T + head["linear.bias"]
    assert np.abs(logits - expected).max() <= 1e-4


@pytest.mark.slow
def test_two_poolings(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("sentence-cls-max")
    out = tmp_path / "out"
    merge_artifact(case.artifact, case.heads, "hf", out, model=case.model)
    expected = artifact_logits(case.artifact, case.heads)
    assert np.abs(sentence_logits(out, out / "task_head") - expected).max() <= 1e-4


@pytest.mark.slow
def test_a_merged_model_can_be_exported_again(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("distilbert")
    merge_artifact(case.artifact, case.heads, "hf", tmp_path / "out", model=case.model)
    export_artifact(tmp_path / "out", labels=3, out=tmp_path / "again", method="head-only")
    expected = artifact_logits(case.artifact, case.heads)
    assert np.abs(artifact_logits(tmp_path / "again", None) - expected).max() <= 1e-4


def test_a_parameter_the_checkpoint_lacks_stays_away(
    with_heads: Any, copied: Any, tmp_path: Path
) -> None:
    folder = copied("sentence")
    stored = load_file(folder / "model.safetensors")
    kept = {name: array for name, array in stored.items() if not name.startswith("pooler.")}
    assert len(kept) < len(stored)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    case = with_heads("sentence")  # the graph does not read the pooler: the same artifact
    merge_artifact(case.artifact, case.heads, "hf", tmp_path / "out", model=str(folder))
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == kept.keys()


@pytest.mark.slow
def test_an_encoder_without_classifier_comes_back_with_one(copied: Any, tmp_path: Path) -> None:
    folder = copied("sentence")
    (folder / "modules.json").unlink()
    export_artifact(folder, labels=["no", "yes"], out=tmp_path / "a", lora_budget=2)
    heads = trained(open_artifact(tmp_path / "a"), tmp_path / "heads.safetensors")
    merge_artifact(tmp_path / "a", heads, "hf", tmp_path / "out", model=str(folder))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert (model.classifier.weight.detach().numpy() == load_file(heads)["task_head.weight"]).all()


@pytest.mark.slow
def test_a_bfloat16_model_stays_bfloat16(copied: Any, tmp_path: Path) -> None:
    folder = copied("bert")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.bfloat16().save_pretrained(folder)
    export_artifact(folder, labels=3, out=tmp_path / "a", lora_budget=2)
    heads = trained(open_artifact(tmp_path / "a"), tmp_path / "heads.safetensors")
    merged = merge_artifact(tmp_path / "a", heads, "hf", tmp_path / "out", model=str(folder))
    assert merged.details["dtype"] == "bfloat16"
    assert "rounded" in merged.notices[0]
    assert merged.gap is not None
    assert merged.gap.logits > 1e-4  # that is what bfloat16 costs here: said, not refused
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert loaded.dtype == torch.bfloat16
    # In float32 nothing is lost.
    merge_artifact(tmp_path / "a", heads, "peft", tmp_path / "peft", model=str(folder))


def test_an_adapted_weight_that_is_tied_is_refused(with_heads: Any) -> None:
    case = with_heads("bert")
    artifact = open_artifact(case.artifact)
    original = load_original(artifact, str(case.model))
    layers = original.model.bert.encoder.layer
    layers[1].attention.self.query.weight = layers[0].attention.self.query.weight
    with pytest.raises(ModelError, match=r"is tied to .*layer\.1") as caught:
        fold_model(artifact, artifact.initial_heads(), original)
    assert "peft" in (caught.value.hint or "")


def test_weights_that_overflow_are_refused(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("bert")
    artifact = open_artifact(case.artifact)
    heads = trained(artifact, tmp_path / "heads.safetensors", size=3e38 / 4)
    layer = artifact.manifest.layers[0]
    assert np.isfinite(factors(artifact, load_file(heads), layer).product).all()
    with pytest.raises(NumericsError, match=r"NaN or infinite|too large"):
        merge_artifact(case.artifact, heads, "onnx", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heads.safetensors"]
