"""T5's encoder goes the way back by the same code: no pooling declared, tied embeddings, a Dense module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import T5EncoderModel

from ravan_edge.artifact import open_artifact
from ravan_export.export import export_artifact
from ravan_export.merge import merge_artifact
from tests.export.conftest import Trained
from tests.export.merge_kit import artifact_logits, give_words, trained
from tests.export.t5_models import save_sentence_t5, save_t5
from tests.export.test_merge_hf import sentence_logits

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def t5(build_once: Any) -> Any:
    def make(kind: str) -> Trained:
        def build(path: Path) -> None:
            path.mkdir()
            save_t5(path / "t5") if kind == "t5" else save_sentence_t5(path / "t5")
            give_words(path / "t5")
            export_artifact(path / "t5", labels=3, out=path / "artifact", lora_budget=2)
            trained(open_artifact(path / "artifact"), path / "heads.safetensors")

        folder = build_once(f"trained-merge-{kind}", build)
        return Trained(folder / "t5", folder / "artifact", folder / "heads.safetensors")

    return make


@pytest.mark.parametrize("kind", ["t5", "sentence-t5"])
def test_hf(kind: str, t5: Any, tmp_path: Path) -> None:
    case, out = t5(kind), tmp_path / "out"
    merged = merge_artifact(case.artifact, case.heads, "hf", out, model=case.model)
    assert merged.gap is not None
    assert merged.gap.logits <= 1e-4
    expected = artifact_logits(case.artifact, case.heads)
    assert np.abs(sentence_logits(out, out / "task_head") - expected).max() <= 1e-4
    # Tied weights stay tied: one of them in the file, one in memory.
    names = load_file(out / "model.safetensors").keys()
    assert len({"shared.weight", "encoder.embed_tokens.weight"} & names) == 1
    model = T5EncoderModel.from_pretrained(out)
    assert model.shared.weight is model.encoder.embed_tokens.weight


@pytest.mark.parametrize("to", ["peft", "onnx", "artifact"])
def test_other_targets(to: str, t5: Any, tmp_path: Path) -> None:
    case = t5("sentence-t5")
    model = None if to == "onnx" else case.model
    merged = merge_artifact(case.artifact, case.heads, to, tmp_path / "out", model=model)
    assert merged.gap is not None
    assert merged.gap.logits <= 1e-4
