"""Other tasks go the way back by the same code: images, labels of words, language models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForTokenClassification,
    LlamaConfig,
)

from ravan_edge.artifact import open_artifact
from ravan_edge.errors import ArtifactError, ModelError
from ravan_export.export import export_artifact
from ravan_export.merge import merge_artifact
from tests.export.conftest import Trained, save, tiny_config
from tests.export.merge_kit import trained
from tests.export.t5_models import t5_model
from tests.export.vit_models import save_vit
from tests.export.word_models import save_with_letters

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]
WITHOUT_LABELS = ("causal-lm", "masked-lm", "seq2seq")
LLAMA = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64,
    "tie_word_embeddings": True, "pad_token_id": 0,
}  # fmt: skip


def save_model(kind: str, folder: Path) -> None:
    if kind.startswith(("vit", "deit")):
        save_vit(kind, folder)
    elif kind == "llama":
        save(AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA)), folder)
    elif kind == "t5":
        save_with_letters(t5_model("t5"), folder)
    elif kind == "tagger":
        config = tiny_config("bert")
        save_with_letters(AutoModelForTokenClassification.from_config(config), folder)
    else:
        save_with_letters(AutoModelForMaskedLM.from_config(tiny_config("bert")), folder)


@pytest.fixture(scope="module")
def case(build_once: Any) -> Any:
    def make(kind: str, task: str, **options: Any) -> Trained:
        def build(path: Path) -> None:
            path.mkdir()
            save_model(kind, path / "model")
            labels = None if task in WITHOUT_LABELS else ["no", "yes", "perhaps"]
            export_artifact(
                path / "model", task, labels, path / "artifact", lora_budget=2, **options
            )
            # Large heads saturate the tiny language model: further ones no longer move its loss.
            size = 0.1 if kind == "masked" else 0.3
            trained(open_artifact(path / "artifact"), path / "heads.safetensors", size=size)

        known = "-".join(options)
        folder = build_once(f"trained-merge-{kind}-{known}", build)
        return Trained(folder / "model", folder / "artifact", folder / "heads.safetensors")

    return make


CASES = [
    ("vit", "image-classification"),
    ("vit-of-7", "image-classification"),
    ("deit-distilled", "image-classification"),
    ("tagger", "token-classification"),
    ("llama", "causal-lm"),
    ("masked", "masked-lm"),
    ("t5", "seq2seq"),
]


@pytest.mark.parametrize(("kind", "task"), CASES)
@pytest.mark.parametrize("to", ["hf", "peft", "artifact"])
def test_it_says_what_the_artifact_says(
    kind: str, task: str, to: str, case: Any, tmp_path: Path
) -> None:
    made = case(kind, task)
    merged = merge_artifact(made.artifact, made.heads, to, tmp_path / "out", model=made.model)
    assert merged.gap is not None
    assert merged.gap.logits <= 1e-4
    if to == "hf" and task.endswith("classification"):
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert list(config["id2label"].values()) == ["no", "yes", "perhaps"]


def conformance(folder: Path) -> dict[str, torch.Tensor]:
    artifact = open_artifact(folder)
    stored = load_file(folder / "conformance.safetensors")
    return {name: torch.from_numpy(stored[f"a.{name}"]) for name in artifact.manifest.batch_inputs}


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_peft_and_the_folded_model_agree(kind: str, task: str, case: Any, tmp_path: Path) -> None:
    made = case(kind, task)
    for to in ("hf", "peft"):
        merge_artifact(made.artifact, made.heads, to, tmp_path / to, model=made.model)
    name = open_artifact(made.artifact).manifest.model.architecture
    build = getattr(transformers, name)
    labels = {} if task in WITHOUT_LABELS else {"num_labels": 3, "ignore_mismatched_sizes": True}
    base = build.from_pretrained(made.model, **labels)
    batch = conformance(made.artifact)
    with torch.no_grad():
        folded = build.from_pretrained(tmp_path / "hf").eval()(**batch).logits.numpy()
        plain = base.eval()(**batch).logits.numpy()
        adapted = PeftModel.from_pretrained(base, tmp_path / "peft").eval()(**batch).logits.numpy()
    assert np.abs(adapted - folded).max() <= 1e-4
    assert np.abs(plain - folded).max() > 1e-2


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_onnx(kind: str, task: str, case: Any, tmp_path: Path) -> None:
    made = case(kind, task)
    if task in WITHOUT_LABELS:
        with pytest.raises(ArtifactError, match="no output 'logits'"):
            merge_artifact(made.artifact, made.heads, "onnx", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return
    merged = merge_artifact(made.artifact, made.heads, "onnx", tmp_path / "out")
    assert merged.gap is not None
    assert merged.gap.logits <= 1e-4
    small = merge_artifact(made.artifact, made.heads, "onnx", tmp_path / "q", quantise="int8")
    assert small.gap is not None
    assert small.gap.rows > 0


def test_tied_weights_stay_tied(case: Any, tmp_path: Path) -> None:
    made = case("llama", "causal-lm")
    merge_artifact(made.artifact, made.heads, "hf", tmp_path / "out", model=made.model)
    before = load_file(made.model / "model.safetensors").keys()
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == before
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.tie_word_embeddings


def test_another_decoder_is_refused(case: Any, tmp_path: Path) -> None:
    made, other = case("llama", "causal-lm"), case("masked", "masked-lm")
    with pytest.raises(ModelError, match="type 'bert'"):
        merge_artifact(made.artifact, made.heads, "hf", tmp_path / "out", model=other.model)
