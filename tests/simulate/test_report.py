"""The page of a run: complete, one safe file, for usual and unusual runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ravan_edge.errors import MissingExtraError, StorageError, UsageError
from ravan_edge.merge import RoundMode, RoundRule
from ravan_edge.simulate import simulate
from ravan_edge.simulate.report import REPORT_NAME, write_report
from tests.simulate.conftest import RequestFor
from tests.simulate.made_up_run import HOSTILE_LABELS, make_up_run
from tests.simulate.page_checks import Page, checked
from tests.simulate.same_run import metrics

UNUSUAL: dict[str, dict[str, Any]] = {
    "one round": {"rounds": 1},
    "one device": {"devices": 2, "per_round": 1},
    "two classes": {"classes": 2},
    "five hundred classes": {"classes": 500},
    "two hundred devices": {"devices": 200, "per_round": 50},
    "two thousand devices": {"devices": 2000, "classes": 10, "per_round": 5},
    "many rounds": {"rounds": 700, "per_round": 2},
    "not evaluated": {"evaluated": False},
    "without validation": {"validated": False},
    "counts left out": {"counts": False},
    "fedit": {"method": "fedit"},
    "head-only": {"method": "head-only"},
    "not finished": {"finished": False},
    "not begun": {"finished": False, "rounds": 1},
    "hostile labels": {"labels": HOSTILE_LABELS, "classes": 7},
}


def page_of(folder: Path) -> Page:
    return checked(write_report(folder).read_text("utf-8"))


def test_a_page_says_everything(tmp_path: Path) -> None:
    page = page_of(make_up_run(tmp_path / "demo"))
    for words in (
        "all-MiniLM-L6-v2 on 20 devices",
        "77 classes, 12 rounds of 3 devices",
        "2.0 %", "72.0 %",  # before, after
        "570 kB", "90.9 MB", "159 times less",
        "412 MB", "4 min 7 s",
        "by round", "by bytes sent", "by simulated time", "best: round 11",
        "All evaluations as a table",
        "class 41", "All 77 classes as a table",
        "divided by dirichlet:0.3", "All devices as a table",
        "Bytes by round", "waiting for the deadline", "All rounds as a table",
        "dropped out", "too late", "bad numbers",
        "1 device without data", "2 devices with less than one batch", "3 rows with an empty text",
        "apache-2.0", "BertModel", "adapted layers", "rank of a head", "numbers that train",
        "2.4.0", "3.11.9", "Linux x86_64",
        "ravan simulate art --train train.csv --out run --lr 0.001",
    ):  # fmt: skip
        assert words in page.text.replace("\N{NO-BREAK SPACE}", " "), words


@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_runs_have_a_page(tmp_path: Path, kind: str) -> None:
    page = page_of(make_up_run(tmp_path / "run", **UNUSUAL[kind]))
    assert "Who took part" in page.text or kind == "not begun"
    if kind == "not finished":
        assert "This run is not finished" in page.text
    if kind == "not evaluated":
        assert "so there are no curves" in page.text


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    folder = make_up_run(
        tmp_path / "<b>run", labels=HOSTILE_LABELS, classes=7, command="ravan '</pre><script>x'"
    )
    text = write_report(folder).read_text("utf-8")
    page = checked(text)
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text
    assert "</pre><script>x" in page.text
    assert "<b>run" in page.text
    assert "\x00" not in text
    assert "\u202e" not in text
    assert "long " * 30 not in text, "a label is cut"


def test_equal_runs_have_equal_pages(tmp_path: Path) -> None:
    folder = make_up_run(tmp_path / "run")
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    # In another process too: hashes of strings differ there.
    code = "import sys, pathlib; from ravan_edge.simulate.report import write_report as w; "
    code += "w(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    assert (folder / REPORT_NAME).read_bytes() == first


@pytest.mark.parametrize("method", ["ravan", "head-only"])
def test_the_page_of_a_real_run(request_for: RequestFor, method: str) -> None:
    budgets = {"head_budgets": "1:0.5,4:0.5"} if method == "ravan" else {}
    request = request_for(method=method, drop_out=0.2, partition="dirichlet:0.3", **budgets)
    summary = simulate(request, workers=1)
    page = page_of(request.out)
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert f"{100 * summary['final']['accuracy']:.1f} %" in text
    assert request.command() in text
    assert summary["artifact"]["architecture"] in text


def test_the_page_of_an_asynchronous_run_shows_staleness(request_for: RequestFor) -> None:
    rule = RoundRule(RoundMode.ASYNC, buffer=2, max_staleness=1)
    request = request_for(rule=rule, per_round=5, rounds=6)
    summary = simulate(request, workers=1)
    assert summary["devices"]["stale"]
    text = page_of(request.out).text.replace("\N{NO-BREAK SPACE}", " ")
    for words in ("Devices do not wait", "Staleness by round", "too stale", "version to version"):
        assert words in text
    assert "slowest device" not in text
    largest = max(line["staleness"] for line in metrics(request.out, "round"))
    assert f"At most {largest:.3f} in a round" in text


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ravan simulate"):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["run.json", "summary.json", "partition.json", "metrics.jsonl"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    folder = make_up_run(tmp_path / "run", rounds=2)
    (folder / name).write_text('{"kind": "round"\n', "utf-8")
    with pytest.raises(StorageError, match=name):
        write_report(folder)
    assert not (folder / REPORT_NAME).exists()


def test_the_torn_last_line_of_a_killed_run_is_no_damage(tmp_path: Path) -> None:
    folder = make_up_run(tmp_path / "run", rounds=4, finished=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind":"dev')
    page_of(folder)


def test_values_that_no_simulation_writes_are_refused(tmp_path: Path) -> None:
    folder = make_up_run(tmp_path / "run", rounds=2)
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    summary["seconds"] = "<b>"
    (folder / "summary.json").write_text(json.dumps(summary), "utf-8")
    with pytest.raises(StorageError, match="seconds"):
        write_report(folder)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_up_run(tmp_path / "run", rounds=2)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"ravan-edge\[simulate\]"):
        write_report(folder)
