from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ravan_edge.artifact import BASE_BOUNDS, open_artifact, read_tensors, write_heads, write_tensors
from ravan_edge.artifact.manifest import parse_manifest
from ravan_edge.errors import ArtifactError
from ravan_edge.plans import conformance
from tests.cli.calls import ravan
from tests.tiny_artifact import LAYER, Method, make_tiny_artifact

Tiny = dict[Method, Path]


@pytest.fixture
def heads(tiny: Tiny, tmp_path: Path) -> Path:
    """Heads under which everything is label2."""
    artifact = open_artifact(tiny["ravan"])
    tensors = artifact.initial_heads()
    tensors["task_head.bias"] = np.array([0, 0, 50], np.float32)
    write_heads(tmp_path / "heads", artifact, tensors, 4)
    return tmp_path / "heads"


def test_eval_scores_heads(
    capsys: pytest.CaptureFixture[str], tiny: Tiny, data: Path, heads: Path
) -> None:
    call = ravan(
        capsys, "eval", tiny["ravan"], "--heads", heads, "--data", data, "--json", "--confusion"
    )
    found = call.document
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["count"] == 120
    assert found["version"] == 4
    assert [entry["correct"] for entry in found["classes"]] == [0, 0, 40]
    assert found["confusion"] == [[0, 0, 40]] * 3
    assert found["loss"] > 10
    text = ravan(capsys, "eval", tiny["ravan"], "--heads", heads, "--data", data).out
    assert "accuracy  33.33%" in text
    assert "most missed: label1 (40), label0 (40)" in text


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_no_count(
    capsys: pytest.CaptureFixture[str], tiny: Tiny, data: Path, batch_size: int
) -> None:
    words = ("eval", tiny["ravan"], "--data", data, "--json")
    some, usual = ravan(capsys, *words, "--batch-size", batch_size), ravan(capsys, *words)
    assert some.document["accuracy"] == usual.document["accuracy"]
    assert some.document["loss"] == pytest.approx(usual.document["loss"], rel=1e-5)


@pytest.mark.parametrize("command", ["eval", "predict"])
def test_heads_of_another_artifact_are_refused(
    capsys: pytest.CaptureFixture[str], tiny: Tiny, data: Path, heads: Path, command: str
) -> None:
    rest = ["--data", data] if command == "eval" else ["w1"]
    call = ravan(capsys, command, tiny["fedit"], "--heads", heads, *rest)
    assert call.code == 3
    assert "another artifact" in call.err
    call = ravan(capsys, command, tiny["fedit"], "--heads", data, *rest)
    assert call.code == 3


def test_predict_ranks_labels(capsys: pytest.CaptureFixture[str], tiny: Tiny, heads: Path) -> None:
    call = ravan(capsys, "predict", tiny["ravan"], "--heads", heads, "w1 w2", "w3", "--json")
    first, second = call.document["predictions"]
    assert (first["text"], second["text"]) == ("w1 w2", "w3")
    assert first["labels"][0]["label"] == "label2"
    assert sum(entry["probability"] for entry in first["labels"]) == pytest.approx(1)
    text = ravan(capsys, "predict", tiny["ravan"], "--heads", heads, "w1", "--top", 1).out
    assert text.split() == ["100.00%", "label2"]


def test_predict_reads_stdin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: Tiny
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("w1\n\n w2 w3 \n"))
    found = ravan(capsys, "predict", tiny["ravan"], "-", "--json").document["predictions"]
    assert [entry["text"] for entry in found] == ["w1", "w2 w3"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert ravan(capsys, "predict", tiny["ravan"], "-").code == 2


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_text_is_refused(
    capsys: pytest.CaptureFixture[str], tiny: Tiny, text: str
) -> None:
    call = ravan(capsys, "predict", tiny["ravan"], text)
    assert call.code == 4
    assert "empty text" in call.err


@pytest.mark.parametrize("method", ["ravan", "fedit", "head-only"])
def test_verify_repeats_the_exporters_check(
    capsys: pytest.CaptureFixture[str], tiny: Tiny, method: Method
) -> None:
    found = ravan(capsys, "verify", tiny[method], "--json").document
    assert found["passed"] is True
    assert found["worst_error"] <= found["tolerance"] == 1e-5
    names = {segment for case in found["cases"] for segment in case["errors"]}
    assert {"loss_sum", "task_head.weight", "task_head.bias"} <= names
    assert (f"{LAYER}.s" in names) == (method == "ravan")
    assert "passed" in ravan(capsys, "verify", tiny[method]).out


@pytest.mark.parametrize("wrong", [1.001, np.nan])
def test_verify_refuses_gradients_that_are_not_torchs(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny: Tiny,
    wrong: float,
) -> None:
    real = conformance.relative_error
    monkeypatch.setattr(
        conformance, "relative_error", lambda found, expected: real(found * wrong, expected)
    )
    call = ravan(capsys, "verify", tiny["ravan"])
    assert call.code == 3
    assert "the artifact allows 1.00e-05" in call.err
    call = ravan(capsys, "verify", tiny["ravan"], "--json")
    assert call.code == 3
    assert call.document["passed"] is False
    assert json.loads(call.out)["worst_error"] == (
        None if np.isnan(wrong) else pytest.approx(1e-3, rel=0.01)
    )


def test_verify_without_a_stored_tensor_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    artifact = make_tiny_artifact(tmp_path / "a")
    path = artifact.conformance_path
    assert path is not None
    tensors = read_tensors(path, BASE_BOUNDS)
    del tensors["first.loss_sum"]
    write_tensors(path, tensors)
    # The digest no longer fits, so a device refuses it already when it is opened.
    call = ravan(capsys, "verify", artifact.folder)
    assert call.code == 3
    with pytest.raises(ArtifactError):
        open_artifact(artifact.folder)


@pytest.mark.parametrize("name", ["grad.encoder.dense.H", "param.encoder.dense.H", "labels"])
def test_verify_of_a_stored_tensor_of_another_shape_is_refused(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny: Tiny,
    name: str,
) -> None:
    def read(path: Path, bounds: object) -> dict[str, NDArray[Any]]:
        del bounds
        tensors = dict(read_tensors(path, BASE_BOUNDS))
        return {
            key: array.reshape(-1)[:3] if key.endswith(name) else array
            for key, array in tensors.items()
        }

    monkeypatch.setattr(conformance, "read_tensors", read)
    call = ravan(capsys, "verify", tiny["ravan"])
    assert call.code in {3, 7}
    assert "Traceback" not in call.err


def test_a_manifest_without_a_stored_case_is_refused(tmp_path: Path) -> None:
    document = json.loads(make_tiny_artifact(tmp_path / "a").manifest.to_bytes())
    document["conformance"]["cases"] = []
    with pytest.raises(ArtifactError, match=r"conformance\.cases"):
        parse_manifest(json.dumps(document).encode())
