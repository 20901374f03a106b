"""Artifacts that were changed, and plans that are not there: the same exit code in every command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.calls import ravan
from tests.tiny_artifact import Method

Capture = pytest.CaptureFixture[str]
Tiny = dict[Method, Path]


def words(command: str, artifact: Path, data: Path, out: Path) -> list[object]:
    return {
        "inspect": [command, artifact],
        "verify": [command, artifact],
        "train": [command, artifact, "--data", data, "--out", out],
        "eval": [command, artifact, "--data", data],
        "predict": [command, artifact, "w1"],
        "simulate": [command, artifact, "--train", data, "--out", out],
        "sweep": [command, artifact, "--train", data, "--out", out, "--lr", 0.1],
        "merge": [command, artifact, "--to", "onnx", "--out", out],
    }[command]


COMMANDS = ("verify", "train", "eval", "predict", "simulate", "sweep")


@pytest.mark.parametrize("command", ["inspect", *COMMANDS, "merge"])
@pytest.mark.parametrize("role", ["step", "eval"])
def test_a_graph_that_was_changed_after_export(
    command: str, role: str, tiny: Tiny, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    artifact = Path(shutil.copytree(tiny["ravan"], tmp_path / "artifact"))
    path = artifact / "plans" / "whole" / f"{role}.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    call = ravan(capsys, *words(command, artifact, data, tmp_path / "out"))
    assert call.code == 3
    assert f"{role}.onnx: sha256 " in call.err
    assert "export again" in call.err
    assert (call.out, "Traceback" in call.err) == ("", False)
    assert not (tmp_path / "out").exists() or command == "sweep"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("plan", "code", "said"),
    [
        ("executorch", 3, "the artifact has no plan 'executorch'; found whole"),
        ("blocks", 2, "--plan: no plan 'blocks'; this version has whole"),
    ],
)
def test_a_plan_that_is_not_there(
    plan: str,
    code: int,
    said: str,
    command: str,
    tiny: Tiny,
    data: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    call = ravan(capsys, *words(command, tiny["ravan"], data, tmp_path / "out"), "--plan", plan)
    assert call.code == code
    assert said in call.err
    if code == 3:
        assert "--plans whole,executorch" in call.err
    assert (call.out, "Traceback" in call.err) == ("", False)
