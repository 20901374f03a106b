"""One rule for the length of texts, in every command that reads some; the tiny model takes 64 tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravan_edge.simulate import engine
from tests.cli.calls import ravan
from tests.simulate.in_process import InProcessPool, NoSampler
from tests.tiny_artifact import Method

Capture = pytest.CaptureFixture[str]
Tiny = dict[Method, Path]
NOTE = "note: texts are cut at 64 tokens, the most the model takes"
QUICK = ("--rounds", 1, "--devices", 3, "--local-steps", 1, "--batch-size", 8)


def words(command: str, artifact: Path, data: Path, out: Path) -> list[object]:
    if command == "predict":
        return [command, artifact, "w1 w2"]
    if command == "eval":
        return [command, artifact, "--data", data]
    if command == "train":
        return [command, artifact, "--data", data, "--out", out, "--local-steps", 1]
    more = ("--lr", "0.01") if command == "sweep" else ()
    return [command, artifact, "--train", data, "--out", out, *QUICK, *more]


COMMANDS = ("train", "eval", "predict", "simulate", "sweep")


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "WorkerPool", InProcessPool)
    monkeypatch.setattr(engine, "PeakSampler", NoSampler)


@pytest.mark.parametrize("command", COMMANDS)
def test_more_than_the_model_takes_is_refused_when_it_is_typed(
    command: str, tiny: Tiny, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    call = ravan(capsys, *words(command, tiny["ravan"], data, tmp_path / "out"), "--max-length", 65)
    assert call.code == 2
    assert "--max-length: 65, but the model takes at most 64 tokens" in call.err
    assert "use at most 64" in call.err
    assert "Traceback" not in call.err


@pytest.mark.parametrize("command", COMMANDS)
def test_the_default_is_what_the_model_takes_and_says_so(
    command: str, tiny: Tiny, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    call = ravan(capsys, *words(command, tiny["ravan"], data, tmp_path / "out"))
    assert call.code == 0, call.err
    assert NOTE in call.err
    assert "note" not in call.out
    typed = ravan(
        capsys, *words(command, tiny["ravan"], data, tmp_path / "typed"), "--max-length", 64
    )
    assert typed.code == 0, typed.err
    assert NOTE not in typed.err


def test_the_run_records_the_length_and_is_the_one_that_types_it(
    tiny: Tiny, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    usual = words("simulate", tiny["ravan"], data, tmp_path / "run")
    first = ravan(capsys, *usual, "--json").document
    assert first["settings"]["max_length"] == 64
    assert "--max-length 64" in first["command"]
    again = ravan(capsys, *usual, "--max-length", 64, "--json")
    assert (again.code, again.document) == (0, first)
    other = ravan(capsys, *usual, "--max-length", 32)
    assert other.code == 2
    assert "max_length is 64 there and 32 here" in other.err
