from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from ravan_edge.cli import main as main_module
from ravan_edge.errors import DataError, NumericsError, RavanError, ServerRefusedError
from tests.cli.calls import ravan

RAVAN = [sys.executable, "-W", "error", "-m", "ravan_edge.cli.main"]


def fails_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """`ravan verify` raises this error."""

    def command(as_json: bool = typer.Option(False, "--json")) -> None:
        del as_json
        raise error

    monkeypatch.setattr("ravan_edge.cli.verify.verify", command)


def test_help_lists_every_command_and_starts_quickly() -> None:
    # Warm, and the best of three: other work on the machine is not ours to measure.
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run([*RAVAN, "--help"], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - began)
    for name in ("export", "inspect", "verify", "train", "eval", "predict", "simulate", "demo"):
        assert f" {name} " in done.stdout
    assert min(seconds) < 1.5, "0.5 s on an idle machine"


def test_help_imports_no_numpy_and_no_runtime() -> None:
    code = (
        "import sys\nfrom ravan_edge.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("numpy", "onnxruntime", "torch", "pydantic", "tokenizers", "matplotlib"):
        assert f"'{name}'" not in done.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    call = ravan(capsys, "--version")
    assert (call.code, call.out) == (0, "ravan 0.1.0\n")


@pytest.mark.parametrize(
    "words",
    [
        ["nothing"],
        ["--nothing"],
        ["verify"],
        ["train", "artifact", "--data", "x", "--out", "y", "--lr", "fast"],
        ["train", "artifact", "--data", "x", "--out", "y", "--optimizer", "adagrad"],
    ],
)
def test_a_command_line_that_makes_no_sense_ends_with_2(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    call = ravan(capsys, *words)
    assert call.code == 2
    assert call.out == ""
    assert "Traceback" not in call.err


def test_a_word_that_is_nearly_a_command_gets_a_suggestion(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "Did you mean 'predict'?" in ravan(capsys, "predcit").err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            DataError("no rows", where="a.csv", hint="add some"),
            4,
            "a.csv: no rows. To mend it: add",
        ),
        (NumericsError("NaN"), 7, "NaN"),
        (ServerRefusedError("no"), 6, "no"),
        (
            ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow"),
            8,
            "ravan-edge[parquet]",
        ),
        (ModuleNotFoundError("x", name="torch.nn"), 8, "pip install 'ravan-edge[export]'"),
        (OSError(28, "No space left on device", "heads"), 9, "heads: No space left on device"),
        (MemoryError(), 5, "memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (RavanError("strange"), 70, "bug of ravan-edge"),
        (ZeroDivisionError("division by zero"), 70, "ZeroDivisionError: division by zero"),
        (ModuleNotFoundError("x", name="ravan_edge.nothing"), 70, "please report it"),
    ],
)
def test_every_error_has_its_exit_code_and_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    said: str,
) -> None:
    fails_with(monkeypatch, error)
    call = ravan(capsys, "verify")
    assert call.code == code
    assert said in call.err
    assert call.out == ""
    assert ("Traceback" in call.err) == (code == 70)
    if code != 70:
        assert len(call.err.strip().splitlines()) == 1
    fails_with(monkeypatch, error)
    document = ravan(capsys, "verify", "--json").document
    assert document["error"]["exit_code"] == code
    assert said in document["error"]["message"]


def test_a_traceback_is_there_for_those_who_ask(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_with(monkeypatch, DataError("no rows"))
    monkeypatch.setenv(main_module.DEBUG_VARIABLE, "1")
    call = ravan(capsys, "verify")
    assert call.code == 4
    assert "Traceback" in call.err


def test_usage_errors_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    call = ravan(capsys, "verify", "--json")
    assert call.code == 2
    assert call.document["error"]["kind"] == "UsageError"


def test_a_reader_that_has_seen_enough_is_no_error(tiny: dict[str, Path]) -> None:
    # head ends before the first line is written
    line = f"sleep 0.3; {' '.join(RAVAN)} inspect {tiny['ravan']}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; ({line}) | true"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


class FakePoint:
    """An entry point of another package."""

    def __init__(self, name: str, register: Any) -> None:
        self.name = name
        self.value = "other_package.cli:register"
        self._register = register

    def load(self) -> Any:
        return self._register


def test_packages_plug_commands_in(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def one(app: typer.Typer) -> None:
        @app.command("single")
        def single(word: str) -> None:
            """A command."""
            typer.echo(word.upper())

    def two(app: typer.Typer) -> None:
        @app.command("first")
        def first() -> None:
            typer.echo("first")

        @app.command("second")
        def second() -> None:
            typer.echo("second")

    points = [FakePoint("single", one), FakePoint("second", two)]
    monkeypatch.setattr(main_module, "entry_points", lambda **_: points)
    assert ravan(capsys, "single", "word").out == "WORD\n"
    assert ravan(capsys, "second").out == "second\n"
    assert " single " in ravan(capsys, "--help").out
    # known, but nobody brings it
    call = ravan(capsys, "export")
    assert call.code == 8
    assert "pip install 'ravan-edge[export]'" in call.err


@pytest.mark.parametrize("name", ["inspect", "verify", "train", "eval", "predict"])
def test_every_command_has_help_with_examples(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    call = ravan(capsys, name, "--help")
    assert call.code == 0
    assert f"ravan {name} " in call.out.partition("Examples:")[2]
    assert "--json" in call.out


def test_the_debug_variable_is_not_set_here() -> None:
    assert main_module.DEBUG_VARIABLE not in os.environ
