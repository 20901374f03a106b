"""Token classification from the command line: a file of words in, labels of words out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModel

from tests.cli.calls import ravan
from tests.export.conftest import tiny_config
from tests.export.word_models import LABELS, save_with_letters, write_tagged


@pytest.fixture(scope="module")
def artifact(
    build_once: Callable[[str, Callable[[Path], None]], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    from ravan_export.export import export_artifact

    def build(path: Path) -> None:
        folder = tmp_path_factory.mktemp("model")
        save_with_letters(AutoModel.from_config(tiny_config("bert")), folder)
        data = write_tagged(folder / "train.jsonl", 40, 0)
        export_artifact(folder, "token-classification", data, path, lora_budget=4, seed=1)

    return build_once("letters-tagger", build)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVAN_CACHE_DIR", str(tmp_path / "cache"))


def test_train_eval_predict(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = (
        write_tagged(tmp_path / "a.jsonl", 120, 1),
        write_tagged(tmp_path / "b.jsonl", 30, 2),
    )
    heads = tmp_path / "heads.safetensors"
    before = ravan(capsys, "eval", artifact, "--data", test, "--json").document
    trained = ravan(
        capsys, "train", artifact, "--data", train, "--out", heads, "--local-steps", 60,
        "--lr", 0.02, "--json",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    after = ravan(
        capsys, "eval", artifact, "--heads", heads, "--data", test, "--json", "--confusion"
    ).document
    assert after["loss"] < 0.7 * before["loss"]
    assert after["accuracy"] > before["accuracy"]
    words = sum(len(json.loads(line)["tokens"]) for line in test.read_text().splitlines())
    assert after["count"] == words == sum(entry["count"] for entry in after["classes"])
    assert [entry["label"] for entry in after["classes"]] == sorted(LABELS)
    assert sum(map(sum, after["confusion"])) == words
    shown = ravan(capsys, "eval", artifact, "--heads", heads, "--data", test).out
    assert f"({words:,} words)" in shown

    call = ravan(
        capsys, "predict", artifact, "--heads", heads, "anna goes to rome", "otto", "--json"
    )
    first, second = call.document["predictions"]
    assert [entry["word"] for entry in first["words"]] == ["anna", "goes", "to", "rome"]
    assert (second["text"], len(second["words"])) == ("otto", 1)
    for entry in first["words"]:
        assert sum(item["probability"] for item in entry["labels"]) == pytest.approx(1)
    call = ravan(
        capsys, "predict", artifact, "--heads", heads, "anna goes to rome", "--max-length", 9
    )
    assert call.code == 0
    rows = [line.split() for line in call.out.splitlines()]
    assert [row[0] for row in rows] == ["anna", "goes", "to", "rome"]
    assert {row[2] for row in rows[:2]} <= set(LABELS)
    assert "--max-length" in " ".join(rows[2])


def test_simulate(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = (
        write_tagged(tmp_path / "a.jsonl", 60, 1),
        write_tagged(tmp_path / "b.jsonl", 20, 2),
    )
    call = ravan(
        capsys, "simulate", artifact, "--train", train, "--test", test, "--out", tmp_path / "run",
        "--partition", "column:user", "--per-round", 2, "--rounds", 3, "--local-steps", 15,
        "--lr", 0.02, "--max-length", 32, "--workers", 1, "--json",
    )  # fmt: skip
    assert call.code == 0, call.err
    assert call.document["final"]["loss"] < 0.9 * call.document["initial"]["loss"]
    assert [entry["label"] for entry in call.document["per_class"]] == sorted(LABELS)


@pytest.mark.parametrize("partition", ["dirichlet:0.3"])
def test_rows_have_no_class_to_deal_out_by(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], partition: str
) -> None:
    data = write_tagged(tmp_path / "a.jsonl", 20, 1)
    call = ravan(
        capsys, "simulate", artifact, "--train", data, "--test", data, "--out", tmp_path / "run",
        "--partition", partition,
    )  # fmt: skip
    assert call.code == 2
    assert "Traceback" not in call.err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "line 2: 1 row that do not have a label for each"),
        ({"tokens": ["a"], "tags": ["BAD"]}, "label 'BAD' (line 2) is not one of the artifact's 3"),
        ({"tokens": ["a"], "tags": 3}, "whose labels are not a list"),
    ],
)
def test_bad_data_ends_with_4(
    artifact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    row: dict[str, object],
    message: str,
) -> None:
    data = tmp_path / "a.jsonl"
    data.write_text(json.dumps({"tokens": ["a"], "tags": ["O"]}) + "\n" + json.dumps(row))
    call = ravan(capsys, "train", artifact, "--data", data, "--out", tmp_path / "h.safetensors")
    assert call.code == 4
    assert message in " ".join(call.err.split())
    assert "Traceback" not in call.err
    assert not (tmp_path / "h.safetensors").exists()
