"""ModernBERT: what the contract of plans does not ask."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModel, AutoModelForMaskedLM

from ravan_edge.artifact import open_artifact
from ravan_edge.errors import ModelError
from ravan_export.export import export_artifact
from tests.export.word_models import modernbert_config, save_with_letters


def test_a_new_task_head_lets_signals_through(tmp_path: Path) -> None:
    save_with_letters(AutoModel.from_config(modernbert_config()), tmp_path / "m")
    export_artifact(tmp_path / "m", "token-classification", 3, tmp_path / "a", lora_budget=2)
    artifact = open_artifact(tmp_path / "a")
    heads = artifact.initial_heads()
    assert (heads["task_head.head.norm.weight"] == 1).all()
    assert heads["task_head.head.dense.weight"].std() > 0.01
    assert [layer.name for layer in artifact.manifest.layers] == [
        f"model.layers.{number}.attn.Wqkv" for number in range(3)
    ]


def test_positions_that_change_with_the_length_are_refused(tmp_path: Path) -> None:
    rope = {
        "full_attention": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    model = AutoModelForMaskedLM.from_config(modernbert_config(rope_parameters=rope))
    save_with_letters(model, tmp_path / "m")
    with pytest.raises(ModelError, match="rotary positions of kind 'dynamic'"):
        export_artifact(tmp_path / "m", "masked-lm", None, tmp_path / "a")
