"""`ravan demo` and `ravan report`, on a tiny model in place of the demo's."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.federated import RATES
from ravan_edge.cli import demo as demo_module
from ravan_edge.cli.report import report_line
from ravan_edge.errors import MissingExtraError
from ravan_edge.simulate import SimulationSettings
from ravan_edge.training import LocalSettings
from tests.cli.calls import Call, ravan
from tests.tiny_artifact import Method, tiny_rows

QUICK = SimulationSettings(
    local=LocalSettings(local_steps=2, batch_size=8, lr=0.01, task_head_lr=0.02),
    devices=4,
    per_round=2,
    rounds=2,
    max_length=32,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user would type `ravan demo`, with data in their place and a quick setting."""
    data = tmp_path / "data" / "banking77"
    data.mkdir(parents=True)
    for name, seed in (("train", 1), ("test", 2)):
        texts, labels = zip(*tiny_rows(80, seed=seed), strict=True)
        table = pa.table({"text": list(texts), "label": list(labels)})
        pq.write_table(table, data / f"{name}.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_module, "DEMO_SETTINGS", QUICK)
    return tmp_path


@pytest.fixture
def exported(folder: Path, tiny: dict[Method, Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An export that copies the tiny artifact; the words it was called with."""
    called: list[str] = []

    def run(words: list[str]) -> int:
        called.extend(words)
        shutil.copytree(tiny["ravan"], folder / words[words.index("--out") + 1])
        return 0

    monkeypatch.setattr(demo_module, "_run_ravan", run)
    return called


def demo(capsys: pytest.CaptureFixture[str], *words: str) -> Call:
    return ravan(capsys, "demo", "--workers", "1", *words)


def test_a_demo_ends_with_a_report_and_says_what_is_next(
    folder: Path, exported: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    call = demo(capsys)
    assert call.code == 0, call.err
    assert exported[0] == "export"
    assert (folder / "runs/demo/report.html").is_file()
    assert (folder / "runs/demo/artifact/manifest.json").is_file()
    for words in ("before", "after", "whole model", "Memory", "runs/demo/report.html"):
        assert words in call.out
    for words in ("1/3", "2/3", "round 2/2", "3/3"):
        assert words in call.err
    commands = [shlex.split(line) for line in call.out.splitlines() if line.startswith("  ")]
    names = ["export", "simulate", "predict"]
    found = {name: line[line.index(name) :] for name in names for line in commands if name in line}
    assert list(found) == names

    # The commands work: the one for the trained model here, the others as far as a parser goes.
    answer = ravan(capsys, *found["predict"])
    assert answer.code == 0, answer.err
    csv = folder / "mine.csv"
    csv.write_text("text,label\n" + "".join(f"{t},{n}\n" for t, n in tiny_rows(200)), "utf-8")
    shutil.copytree(folder / "runs/demo/artifact", folder / "runs/mine.artifact")
    quick = ["--rounds", "1", "--local-steps", "1", "--max-length", "32", "--workers", "1"]
    assert ravan(capsys, *found["simulate"], *quick).code == 0
    assert ravan(capsys, *found["export"]).code == 2, "there is an artifact already"


def test_a_finished_demo_is_shown_at_once(
    folder: Path, exported: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = demo(capsys)
    page = (folder / "runs/demo/report.html").stat().st_mtime_ns
    exported.clear()
    began = time.perf_counter()
    again = demo(capsys)
    assert time.perf_counter() - began < 5
    assert again.out == first.out
    assert not exported
    assert (folder / "runs/demo/report.html").stat().st_mtime_ns == page
    assert json.loads(demo(capsys, "--json").out)["rounds"] == 2


@pytest.mark.usefixtures("folder")
def test_an_interrupted_demo_goes_on(
    exported: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "_run_ravan", interrupted)
        call = demo(capsys)
        assert call.code == 130
        assert "same command" in call.err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "run_simulation", interrupted)
        assert demo(capsys).code == 130
    assert exported
    exported.clear()
    assert demo(capsys).code == 0
    assert not exported, "the artifact of the first attempt is used"


def test_an_export_that_fails_ends_the_demo_with_its_code(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_module, "_run_ravan", lambda _: 8)
    assert demo(capsys).code == 8
    assert not (folder / "runs/demo/run.json").exists()


def test_missing_data_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    call = demo(capsys, "--data", str(elsewhere))
    assert call.code == 4
    assert "--data" in call.err
    # An installed kit, away from any checkout.
    monkeypatch.setattr(demo_module.ravan_edge, "__file__", str(elsewhere / "p" / "__init__.py"))
    monkeypatch.chdir(elsewhere)
    call = demo(capsys)
    assert call.code == 4
    assert "checkout" in call.err


def test_a_missing_model_package_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_module, "_MODEL_PACKAGE", "no_such_model")
    call = demo(capsys)
    assert call.code == 8
    assert "ravan-edge[demo]" in call.err
    assert not (folder / "runs").exists()


def test_report_makes_the_page_again(
    folder: Path, exported: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(capsys).code == 0
    assert exported
    page = folder / "runs/demo/report.html"
    content = page.read_bytes()
    page.unlink()
    call = ravan(capsys, "report", "runs/demo", "--json")
    assert call.document == {"report": "runs/demo/report.html"}
    assert page.read_bytes() == content
    assert ravan(capsys, "report", folder).code == 2


def test_a_missing_extra_costs_the_page_and_not_the_run(tmp_path: Path) -> None:
    def write(_: Path) -> Path:
        raise MissingExtraError("a report needs jinja2", hint="pip install")

    (tmp_path / "summary.json").write_text("{}", "utf-8")
    line = report_line(tmp_path, "summary.json", "report.html", write)
    assert "not written" in line
    assert "pip install" in line


def test_the_demo_takes_the_rates_of_the_benchmark() -> None:
    rates, local = RATES["ravan"], demo_module.DEMO_SETTINGS.local
    assert (local.lr, local.task_head_lr) == (rates.lr, rates.task_head_lr)


@pytest.mark.slow
def test_the_real_model_in_a_real_demo(
    root: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local = dataclasses.replace(demo_module.DEMO_SETTINGS.local, local_steps=10)
    settings = dataclasses.replace(demo_module.DEMO_SETTINGS, rounds=1, local=local)
    monkeypatch.setattr(demo_module, "DEMO_SETTINGS", settings)
    data = root / "data" / "banking77"
    call = ravan(capfd, "demo", "--out", tmp_path / "demo", "--data", data)
    assert call.code == 0, call.err
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text("utf-8"))
    assert summary["final"]["accuracy"] > 3 * summary["initial"]["accuracy"]
    assert summary["artifact"]["license"] == "apache-2.0"
    assert (tmp_path / "demo" / "report.html").is_file()
