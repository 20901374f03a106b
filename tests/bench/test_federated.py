"""The federated bench: what it makes of finished runs, and that it never mixes two settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.federated import compare, main
from bench.federated_runs import Job, Rates, Result, Runner

RATES = Rates(5e-3, 1e-3)
OPTIONS: dict[str, int | float | str] = {"rounds": 4, "devices": 20, "partition": "dirichlet:0.3"}


def _result(*accuracy: float) -> Result:
    return Result(range(1, len(accuracy) + 1), accuracy, 60.0, None)


def _runner(work: Path) -> Runner:
    job = Job("set", work / "train.csv", work / "test.csv", OPTIONS)
    return Runner(job, "model", work, micro_batch=8)


def _write_run(folder: Path, **settings: Any) -> None:
    folder.mkdir(parents=True)
    known = OPTIONS | {"lr": 5e-3, "task_head_lr": 1e-3, "seed": 0, "devices": None}
    summary = {"settings": known | settings, "seconds": 9.0, "upload_bytes_per_update": 77}
    (folder / "summary.json").write_text(json.dumps(summary))
    lines: list[dict[str, Any]] = [{"kind": "evaluation", "set": "test", "round": 0, "accuracy": 0}]
    for number in (2, 4):
        lines.append({"kind": "round", "round": number})
        for name in ("validation", "test"):
            share = number / (10 if name == "test" else 5)
            lines.append({"kind": "evaluation", "set": name, "round": number, "accuracy": share})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_figure_is_the_mean_over_the_last_five_evaluations() -> None:
    assert _result(0.0, 0.1, 0.5, 0.6, 0.7, 0.8, 0.9).figure == pytest.approx(0.7)
    assert _result(0.2, 0.4).figure == pytest.approx(0.3)


def test_differences_are_over_the_seeds_that_both_have() -> None:
    found = {
        "ravan": {0: _result(0.86), 1: _result(0.84), 2: _result(0.5)},
        "head-only": {0: _result(0.80), 1: _result(0.78)},
        "fedit": {},
        "twin": {0: _result(0.855)},
    }
    compared = compare(found)
    assert compared["ravan_minus"]["head-only"]["seeds"] == [0, 1]
    assert compared["ravan_minus"]["head-only"]["mean"] == pytest.approx(0.06)
    assert "fedit" not in compared["sides"]
    assert "fedit" not in compared["ravan_minus"]
    assert compared["sides"]["ravan"]["spread"] == pytest.approx(0.36)
    assert compared["sides"]["twin"]["spread"] is None
    assert compared["targets"] == {
        "ravan at least 82 %": False,
        "at least 5 points above head-only": True,
        "within 1 point of torch": True,
    }


def test_a_finished_run_is_read_back(tmp_path: Path) -> None:
    runner = _runner(tmp_path)
    assert runner.finished("ravan", 0, RATES) is None
    _write_run(tmp_path / "set" / "ravan-seed0")
    assert runner.finished("ravan", 0, RATES) == Result([2, 4], [0.2, 0.4], 9.0, 77)


def test_a_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    _write_run(tmp_path / "set" / "ravan-seed0", lr=0.1)
    with pytest.raises(SystemExit, match=r"lr 0\.1 there, 0\.005 here: choose another --work"):
        _runner(tmp_path).finished("ravan", 0, RATES)


def test_report_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--report", "--json", "--work", str(tmp_path), "--model", "nowhere"]) == 0
    assert json.loads(capsys.readouterr().out)["sides"] == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sides", "ravan,nobody"], "nobody unknown"),
        (["--train", "a.csv"], "--train and --test"),
        (["--rates", "nobody=1/1"], "expected SIDE=LR/TASK_HEAD_LR"),
    ],
)
def test_bad_options(arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit, match=words):
        main(["--report", *arguments])
