"""`ravan simulate` and `ravan sweep`, as a shell sees them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ravan_edge.simulate import engine
from tests.cli.calls import ravan
from tests.simulate.in_process import InProcessPool, NoSampler
from tests.tiny_artifact import Method

Capture = pytest.CaptureFixture[str]
Tiny = dict[Method, Path]

QUICK = (
    *("--max-length", 32, "--rounds", 2, "--devices", 6, "--local-steps", 5, "--batch-size", 8),
    *("--lr", 0.01),
)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "WorkerPool", InProcessPool)
    monkeypatch.setattr(engine, "PeakSampler", NoSampler)


def words(tiny: Tiny, data: Path, out: Path) -> list[object]:
    return ["simulate", tiny["ravan"], "--train", data, "--test", data, "--out", out, *QUICK]


def test_a_run_for_people(tiny: Tiny, data: Path, tmp_path: Path, capsys: Capture) -> None:
    call = ravan(capsys, *words(tiny, data, tmp_path / "run"), "--workers", 2)
    assert call.code == 0, call.err
    rounds = [line for line in call.err.splitlines() if line.startswith("round ")]
    assert [line.split()[1] for line in rounds] == ["0/2", "1/2", "2/2"]
    for said in ("before", "after on the test rows", "up and", "the whole model is", "in a worker"):
        assert said in call.out
    assert "ravan predict" in call.out.splitlines()[-1]
    again = ravan(capsys, *words(tiny, data, tmp_path / "run"))
    assert (again.code, again.out) == (0, call.out), "a finished run prints its result again"


@pytest.mark.usefixtures("in_process")
def test_a_run_for_machines(tiny: Tiny, data: Path, tmp_path: Path, capsys: Capture) -> None:
    call = ravan(capsys, *words(tiny, data, tmp_path / "run"), "--json")
    assert call.code == 0, call.err
    summary = call.document
    assert {
        *("initial", "final", "best", "rounds", "upload_bytes_per_update", "download_bytes_once"),
        *("download_bytes_per_round", "peak_memory_bytes", "seconds", "simulated_seconds"),
        *("per_class", "partition", "settings", "versions", "command", "model_bytes"),
    } <= summary.keys()
    assert summary["settings"]["lr"] == 0.01


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--rounds", "0"], 2, "--rounds"),
        (["--per-round", "7"], 2, "--per-round"),
        (["--validation", "0.95"], 2, "--validation"),
        (["--partition", "sorted"], 2, "--partition"),
        (["--head-budgets", "1:0.5"], 2, "sum to"),
        (["--head-budgets", "9:1"], 2, "--head-budgets"),
        (["--deadline-seconds", "1e-9"], 2, "--deadline-seconds"),
        (["--max-length", "100"], 2, "--max-length"),
        (["--workers", "0"], 2, "--workers"),
        (["--text-column", "body"], 4, "body"),
        (["--train", "missing.csv"], 4, "missing.csv"),
        (["--lr", "1000", "--local-steps", "40"], 7, "--lr"),
    ],
)
def test_exit_codes(
    tiny: Tiny,
    data: Path,
    tmp_path: Path,
    capsys: Capture,
    options: list[str],
    code: int,
    said: str,
) -> None:
    call = ravan(capsys, *words(tiny, data, tmp_path / "run"), *options)
    assert (call.code, said in call.err) == (code, True), call.err
    assert "Traceback" not in call.err


@pytest.mark.usefixtures("in_process")
def test_more_labels_than_the_artifact_has(tiny: Tiny, tmp_path: Path, capsys: Capture) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("text,label\n" + "".join(f"w{n % 9},label{n % 5}\n" for n in range(50)))
    call = ravan(capsys, *words(tiny, data, tmp_path / "run"))
    assert call.code == 4
    assert "label3" in call.err


@pytest.mark.usefixtures("in_process")
def test_another_configuration_and_no_artifact(
    tiny: Tiny, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert ravan(capsys, *words(tiny, data, tmp_path / "run")).code == 0
    other = ravan(capsys, *words(tiny, data, tmp_path / "run"), "--seed", 5)
    assert other.code == 2
    assert "seed is 0 there and 5 here" in other.err
    missing = ["simulate", tmp_path / "nothing", "--train", data, "--out", tmp_path / "other"]
    assert ravan(capsys, *missing).code == 3


@pytest.mark.usefixtures("in_process")
def test_a_sweep(tiny: Tiny, data: Path, tmp_path: Path, capsys: Capture) -> None:
    sweep = ["sweep", tiny["ravan"], "--train", data, "--out", tmp_path / "sweep", *QUICK[:-2]]
    sweep += ["--local-steps", 30, "--validation", 0.3]
    call = ravan(capsys, *sweep, "--lr", "1e-5,3e-2", "--seeds", "0,1")
    assert call.code == 0, call.err
    table = [line.split("\t") for line in call.out.splitlines() if "\t" in line]
    assert table[0][:2] == ["lr", "task head lr"]
    assert [row[0] for row in table[1:]] == ["1e-05", "0.03"]
    assert table[2][-1] == "chosen", call.out
    document = ravan(capsys, *sweep, "--lr", "1e-5,3e-2", "--seeds", "0,1", "--json").document
    assert document["best"]["lr"] == 0.03
    for rates in ("fast", "1e-3,,1e-2", ""):
        assert ravan(capsys, *sweep, "--lr", rates).code == 2
    assert "--lr" in ravan(capsys, "sweep", "--help").out


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
def test_ctrl_c_ends_with_130_and_the_command_goes_on(
    tiny: Tiny, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    line = [str(word) for word in words(tiny, data, tmp_path / "run")]
    line[line.index("--rounds") + 1] = "300"
    with subprocess.Popen(
        [sys.executable, "-m", "ravan_edge.cli.main", *line, "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        for said in process.stderr:
            if said.startswith("round 3/"):
                break
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: main process and workers
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert "Traceback" not in complaint
    assert "type the same command again" in complaint
    assert ravan(capsys, *line, "--workers", 1).code == 0
