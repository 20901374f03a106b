"""The artifact as a whole: what the manifest says, label maps, task heads, the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoModel

from ravan_edge.artifact.opening import open_artifact
from ravan_edge.methods.ravan import rank_for_lora_budget
from ravan_export.export import export_artifact


def ravan(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ravan_edge.cli.main", *words],
        capture_output=True,
        check=False,
        text=True,
    )


def test_a_classifier_keeps_its_own_head(exported: Any, tiny_model: Any) -> None:
    stored = load_file(tiny_model("roberta") / "model.safetensors")
    heads = exported("roberta", method="ravan").initial_heads()
    for name in ("dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"):
        assert (heads[f"task_head.{name}"] == stored[f"classifier.{name}"]).all()


@pytest.mark.slow
def test_task_head_names(exported: Any) -> None:
    def names(kind: str) -> list[str]:
        table = exported(kind, method="ravan").manifest.tensors
        heads = [entry.name for entry in table if entry.role == "task_head"]
        return [name.removeprefix("task_head.") for name in heads]

    assert names("bert") == names("sentence") == ["weight", "bias"]
    assert names("distilbert") == [
        "pre_classifier.weight", "pre_classifier.bias", "classifier.weight", "classifier.bias",
    ]  # fmt: skip


def test_a_sentence_encoder_starts_at_zero(exported: Any) -> None:
    heads = exported("sentence-cls-max", method="ravan").initial_heads()
    assert heads["task_head.weight"].shape == (3, 32)  # two poolings of width 16
    for name, array in heads.items():
        assert (array == (1 if name.endswith(".s") else 0)).all()


def test_fedit_starts_as_the_pretrained_model(exported: Any) -> None:
    heads = exported("sentence", method="fedit").initial_heads()
    for name, array in heads.items():
        if name.endswith("lora_A"):
            assert 0 < np.abs(array).max() <= 1 / 16**0.5
        else:
            assert not array.any()


def test_the_rank_comes_from_the_budget(exported: Any) -> None:
    manifest = exported("bert", method="ravan").manifest
    assert rank_for_lora_budget(2, 16, 16, 4) == 4
    assert {layer.rank for layer in manifest.layers} == {4}
    assert manifest.method.rank == 4
    assert manifest.method.heads == 4
    assert [layer.name for layer in manifest.layers] == [
        f"bert.encoder.layer.{layer}.attention.self.{name}"
        for layer in (0, 1)
        for name in ("query", "value")
    ]


def test_facts_of_the_model(exported: Any, tiny_model: Any) -> None:
    manifest = exported("roberta", method="ravan").manifest
    assert manifest.model.name == "tiny-roberta"
    assert manifest.model.architecture == "RobertaForSequenceClassification"
    assert manifest.model.license is None
    stored = load_file(tiny_model("roberta") / "model.safetensors")
    assert manifest.model.parameters == sum(array.size for array in stored.values())
    assert manifest.text.pad_id == 1
    assert manifest.text.max_length == 40
    assert exported("bert", method="ravan").manifest.text.max_length == 40


def test_a_bare_encoder_gets_a_seeded_head(copied: Any, tmp_path: Path) -> None:
    folder = copied("sentence")
    (folder / "modules.json").unlink()
    heads = []
    for seed in (1, 2):
        out = tmp_path / f"out{len(heads)}"
        exported = export_artifact(folder, labels=5, out=out, seed=seed, method="head-only")
        heads.append(open_artifact(out).initial_heads()["task_head.weight"])
        assert "no classifier" in exported.manifest.notices[0]
    assert heads[0].shape == (5, 16)
    assert not (heads[0] == heads[1]).any()
    assert 0.005 < heads[0].std() < 0.05


def test_labels_from_a_data_file(tiny_model: Any, tmp_path: Path) -> None:
    path = tmp_path / "mails.csv"
    path.write_text("text,label\nx,no\ny,yes\nz,maybe\n")
    out = tmp_path / "out"
    export_artifact(tiny_model("bert"), labels=path, out=out, method="head-only")
    assert open_artifact(out).manifest.labels == ("maybe", "no", "yes")


def test_the_licence_of_the_model_card(copied: Any, tmp_path: Path) -> None:
    folder = copied("sentence")
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    exported = export_artifact(
        folder, labels=3, out=tmp_path / "out", method="head-only", name="mine"
    )
    assert exported.manifest.model.license == "apache-2.0"
    assert exported.manifest.model.name == "mine"


def test_it_can_be_replaced_when_asked(tiny_model: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for labels in (3, 4):
        export_artifact(
            tiny_model("sentence"), labels=labels, out=out, method="head-only", overwrite=True
        )
    assert len(open_artifact(out).manifest.labels) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_pretrained_weights_are_in_the_base_unchanged(exported: Any, tiny_model: Any) -> None:
    artifact = exported("sentence", method="ravan")
    model = AutoModel.from_pretrained(tiny_model("sentence"))
    state = model.state_dict()
    names = {basis.name for basis in artifact.manifest.bases}
    frozen = [name for name in artifact.base if name not in names]
    assert "encoder.layer.0.attention.self.key.weight" in frozen
    for name in frozen:
        assert (artifact.base[name] == state[name].numpy()).all()
    assert not any("pooler" in name for name in frozen)  # not read by the graph: not sent


def test_the_command(tiny_model: Any, tmp_path: Path) -> None:
    out = tmp_path / "mine.ravan"
    words = ["export", str(tiny_model("sentence")), "--labels", "3", "--lora-budget", "2"]
    finished = ravan(*words, "--out", str(out), "--json")
    assert finished.returncode == 0, finished.stderr
    document = json.loads(finished.stdout)
    assert document["artifact"] == str(out)
    assert document["worst_error"] <= 1e-5
    assert document["method"]["init"] == "gram-schmidt"
    again = ravan(*words, "--out", str(out))
    assert again.returncode == 2
    assert "already there" in again.stderr


def test_the_commands_errors_have_exit_codes(tmp_path: Path) -> None:
    words = ["export", str(tmp_path / "nowhere"), "--labels", "3", "--out", str(tmp_path / "out")]
    missing = ravan(*words)
    assert (missing.returncode, missing.stdout) == (3, "")
    assert "no such model folder" in missing.stderr
    assert ravan(*words, "--method", "sgd").returncode == 2
    assert ravan(*words, "--heads", "0").returncode == 2


def test_help_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import ravan_export.cli; print('fine')"
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, text=True
    )
    assert finished.stdout == "fine\n", finished.stderr


@pytest.mark.slow
def test_a_model_coarser_than_the_tolerance_is_held_against_float64(
    tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then what is stored is float64's result, so that a device is held against that too."""
    monkeypatch.setattr("ravan_export.export.TOLERANCE", 1e-12)
    said: list[str] = []
    plain, exact = (
        export_artifact(tiny_model("bert"), labels=3, out=tmp_path / name, progress=say)
        for name, say in (("a", said.append), ("b", said.append))
    )
    assert any("float64" in message for message in said)
    assert plain.manifest == exact.manifest
    monkeypatch.undo()
    usual = export_artifact(tiny_model("bert"), labels=3, out=tmp_path / "c")
    stored, float32 = (
        load_file(made.folder / "conformance.safetensors") for made in (exact, usual)
    )
    assert stored.keys() == float32.keys()
    gradients = [name for name in stored if ".grad." in name]
    gaps = [np.abs(stored[name] - float32[name]).max() for name in gradients]
    assert 0 < max(gaps) < 1e-3
    assert all(case.worst_error > 0 for case in exact.manifest.conformance.cases)
    assert exact.manifest.conformance.tolerance >= 1e-5
