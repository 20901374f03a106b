"""The messages quoted in docs/exit-codes are the ones that commands print, with the codes they say."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ravan_edge.cli.main import main
from ravan_edge.device import ServerConnection
from ravan_edge.protocol import Reason, Refusal
from ravan_edge.training import LocalSettings
from tests.conftest import BuildOnce
from tests.tiny_artifact import make_tiny_artifact, tiny_rows

PAGES = Path(__file__).resolve().parent.parent / "docs" / "exit-codes"


def write_csv(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def build(folder: Path) -> None:
    folder.mkdir()
    make_tiny_artifact(folder / "artifact")
    make_tiny_artifact(folder / "another", seed=5)
    write_csv(folder / "mails.csv", [("text", "label"), *tiny_rows(80)])
    write_csv(folder / "body.csv", [("body", "kind"), *tiny_rows(20)])
    write_csv(folder / "gap.csv", [("text", "label"), ("w1 w2", "label0"), ("", "label1")])
    write_csv(folder / "other.csv", [("text", "label"), ("w1", "label9")])
    write_csv(folder / "head.csv", [("text", "label")])
    (folder / "mails.txt").write_text("w1", "utf-8")
    (folder / "latin.csv").write_bytes("text,label\nGrüße,label0\n".encode("latin-1"))


@pytest.fixture
def folder(build_once: BuildOnce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may spoil, and the working folder."""
    shutil.copytree(build_once("exit-codes", build), tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def page_of(code: int) -> str:
    return (PAGES / f"{code}.md").read_text("utf-8")


TRAIN = ("train", "artifact", "--data", "mails.csv", "--out", "h.safetensors")
SIMULATE = ("simulate", "artifact", "--train", "mails.csv", "--test", "mails.csv", "--out", "run")
EVAL = ("eval", "artifact", "--data")


@pytest.mark.parametrize(
    ("code", "words", "quoted"),
    [
        (2, (*TRAIN, "--lr", "0"), "ravan: --lr: 0.0 is out of range, expected more than 0"),
        (
            2,
            (*SIMULATE, "--max-length", "128"),
            "ravan: --max-length: 128, but the model takes at most 64 tokens. ",
        ),
        (
            2,
            (*SIMULATE, "--partition", "dirichlet"),
            "ravan: --partition: unknown partition 'dirichlet'. To mend it: use iid, ",
        ),
        (2, (*TRAIN, "--rank", "3"), "No such option: --rank"),
        (
            2,
            ("serve", "artifact", "--state", "state", "--host", "0.0.0.0"),
            "ravan: --host 0.0.0.0: other machines can connect there, and anybody between could ",
        ),
        (3, ("inspect", "nowhere"), "ravan: nowhere: there is no such folder. To mend it: "),
        (
            3,
            (*SIMULATE, "--plan", "executorch"),
            "the artifact has no plan 'executorch'; found whole. ",
        ),
        (4, (*EVAL, "nowhere.csv"), ": no such file. To mend it: check the path"),
        (4, (*EVAL, "mails.txt"), "ravan: mails.txt: unsupported suffix '.txt', expected .csv, "),
        (4, (*EVAL, "head.csv"), ": no rows. To mend it: a csv needs rows below its header, "),
        (4, (*EVAL, "body.csv"), "ravan: body.csv: no label column: none is called label, "),
        (4, (*EVAL, "gap.csv"), "ravan: gap.csv, line 3: 1 row with an empty text (line 3). "),
        (4, (*EVAL, "other.csv"), "ravan: other.csv, line 2: label 'label9' (line 2) is not "),
        (4, (*EVAL, "latin.csv"), "ravan: latin.csv, line 2: expected UTF-8, but at byte 13 "),
        (
            7,
            (*TRAIN, "--optimizer", "sgd", "--lr", "1000"),
            "ravan: round 0, device 0: the loss diverges: ",
        ),
        (
            9,
            (*TRAIN[:-1], "runs/h.safetensors"),
            "ravan: runs: there is no such folder. To mend it: mkdir -p runs",
        ),
        (
            9,
            ("status", "--server", "http://127.0.0.1:1"),
            "ravan: http://127.0.0.1:1: the server cannot be reached: ",
        ),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_quoted_message_is_printed_with_its_code(
    capsys: pytest.CaptureFixture[str],
    code: int,
    words: tuple[str, ...],
    quoted: str,
) -> None:
    assert quoted in page_of(code), "the page quotes it"
    assert run(*words) == code
    assert quoted in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_with_json_the_error_is_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "nowhere", "--json") == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["exit_code"] == 3
    assert error["kind"] == "ArtifactNotFoundError"


def test_a_changed_base(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "artifact" / "base.safetensors").open("ab") as file:
        file.write(b"x")
    assert run("inspect", "artifact") == 3
    quoted = "7169 bytes, expected 7168. To mend it: the file is damaged or was changed: "
    assert quoted in page_of(3)
    assert quoted in capsys.readouterr().err


def test_a_newer_version(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = folder / "artifact" / "manifest.json"
    document = json.loads(manifest.read_text("utf-8"))
    manifest.write_text(json.dumps(document | {"schema_version": 2}), "utf-8")
    assert run("inspect", "artifact") == 3
    quoted = "made by a newer version (schema 2, this is 1). To mend it: upgrade ravan-edge: "
    assert quoted in page_of(3)
    assert quoted in capsys.readouterr().err


def test_a_symbolic_link(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = folder / "artifact" / "base.safetensors"
    base.rename(folder / "base.safetensors")
    base.symlink_to(folder / "base.safetensors")
    assert run("inspect", "artifact") == 3
    quoted = ": 'base.safetensors' is a symbolic link or no regular file. To mend it: copy "
    assert quoted in page_of(3)
    assert quoted in capsys.readouterr().err


def test_a_refusal_of_a_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(connection: ServerConnection, version: int) -> None:
        del connection
        raise Refusal(
            Reason.NO_SUCH_VERSION,
            f"version {version} is not kept: `ravan heads list` shows those that are",
        )

    monkeypatch.setattr(ServerConnection, "roll_back", refused)
    assert run("heads", "rollback", "9", "--server", "http://127.0.0.1:1") == 6
    assert capsys.readouterr().err.strip() in page_of(6)


def test_heads_of_another_artifact(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*TRAIN, "--local-steps", "2") == 0
    heads = folder / "h.safetensors"
    assert run("eval", "another", "--heads", str(heads), "--data", "mails.csv") == 3
    quoted = "To mend it: use it with the artifact it was trained from"
    assert quoted in page_of(3)
    assert quoted in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_another_configuration_in_a_run_folder(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--devices", "4", "--local-steps", "2", "--max-length", "16", "--rounds")
    assert run(*SIMULATE, *small, "2") == 0
    assert run(*SIMULATE, *small, "2") == 0, "a finished run prints its result"
    capsys.readouterr()
    assert run(*SIMULATE, *small, "3") == 2
    quoted = "the folder holds a run with another configuration: rounds is 2 there and 3 here. "
    assert quoted in page_of(2)
    assert quoted in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_an_interrupted_run_says_that_it_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_settings: LocalSettings) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalSettings, "make_optimiser", interrupt)
    assert run(*TRAIN) == 130
    error = capsys.readouterr().err
    assert "type the same command again" in page_of(130)
    assert "interrupted" in error


@pytest.mark.usefixtures("folder")
def test_anything_unexpected_is_a_bug_of_ours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_settings: LocalSettings) -> None:
        raise ZeroDivisionError("by nobody")

    monkeypatch.setattr(LocalSettings, "make_optimiser", fail)
    assert run(*TRAIN) == 70
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "ZeroDivisionError: by nobody. This is a bug of ravan-edge" in error


@pytest.mark.usefixtures("folder")
def test_a_missing_package_says_which_command_installs_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What Python itself raises for a module that is None there.
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run(*TRAIN) == 8
    quoted = "which is not installed. To mend it: pip install 'ravan-edge[onnxruntime]'"
    assert quoted in page_of(8)
    assert quoted in capsys.readouterr().err
