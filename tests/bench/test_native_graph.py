"""What onnxruntime-training computes alone is what eager torch computes: the two are timed as equals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import BertConfig, BertForSequenceClassification, BertModel

from bench.native_graph import write_files
from bench.step import Process
from bench.step_sides import LABELS, EagerSide, Shape

SIZES = {
    "vocab_size": 30000, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2,
}  # fmt: skip
SHAPE = Shape(3, 5, width=16, hidden=32, layers=2, attention_heads=2)


# what transformers says to peft
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.slow
@pytest.mark.parametrize("pooled", [True, False], ids=["sentence", "classifier"])
def test_its_loss_is_eagers(tmp_path: Path, pooled: bool) -> None:
    model, artifact, files = (tmp_path / name for name in ("model", "artifact", "files"))
    if pooled:
        BertModel(BertConfig(**SIZES)).save_pretrained(model)
        (model / "modules.json").touch()
    else:
        config = BertConfig(**SIZES, num_labels=LABELS)
        BertForSequenceClassification(config).save_pretrained(model)
    artifact.mkdir()
    prefix = "" if pooled else "bert."
    layers = [
        {"name": f"{prefix}encoder.layer.{layer}.attention.self.{part}"}
        for layer in range(2)
        for part in ("query", "value")
    ]
    (artifact / "manifest.json").write_text(json.dumps({"layers": layers}))
    side = EagerSide(SHAPE, str(model), str(artifact), 2, 1)
    write_files(side, files)
    with Process("native", SHAPE, {"folder": str(files), "threads": 1}) as process:
        process.load()
        assert process.time(1)["loss"] == pytest.approx(side.step(), rel=1e-5)
