"""Sweeps: what they run, how they choose, that they resume and extend."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import pytest

from ravan_edge.errors import NumericsError, UsageError
from ravan_edge.simulate import RoundDone, SweepRun, engine, sweep
from tests.simulate.conftest import RequestFor
from tests.simulate.in_process import InProcessPool, NoSampler


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "WorkerPool", InProcessPool)
    monkeypatch.setattr(engine, "PeakSampler", NoSampler)


def test_a_sweep_chooses_by_the_mean_of_validation(request_for: RequestFor) -> None:
    base = request_for("sweep", local={"local_steps": 20})
    found = sweep(base, [1e-5, 1e-2, 1e-5], seeds=[0, 1])
    assert found == json.loads((base.out / "sweep.json").read_text("utf-8"))
    assert [row["lr"] for row in found["rows"]] == [1e-5, 1e-2], "a rate named twice runs once"
    assert found["best"] == found["rows"][1]
    for row in found["rows"]:
        runs = [json.loads((base.out / run["folder"] / "summary.json").read_text("utf-8"))
                for run in row["runs"]]  # fmt: skip
        mean = sum(run["recent"]["validation_accuracy"] for run in runs) / 2
        assert row["validation_accuracy"] == pytest.approx(mean)
        assert [run["settings"]["seed"] for run in runs] == [0, 1]
        assert {run["settings"]["lr"] for run in runs} == {row["lr"]}
    assert "--lr 0.01" in found["command"]


def test_a_grid_of_two_rates(request_for: RequestFor) -> None:
    found = sweep(request_for("sweep", rounds=1), [1e-3, 1e-2], task_head_rates=[1e-3, 1e-1])
    points = [(row["lr"], row["task_head_lr"]) for row in found["rows"]]
    assert points == [(1e-3, 1e-3), (1e-3, 1e-1), (1e-2, 1e-3), (1e-2, 1e-1)]
    folders = {run["folder"] for row in found["rows"] for run in row["runs"]}
    assert folders >= {"lr-0.001_task-head-lr-0.1_seed-0", "lr-0.01_task-head-lr-0.001_seed-0"}


def test_a_sweep_resumes_and_extends(request_for: RequestFor) -> None:
    base = request_for("sweep")
    rounds: list[int] = []

    def stop(event: object) -> None:
        if isinstance(event, RoundDone):
            rounds.append(event.round)
            if len(rounds) == 6:
                raise KeyboardInterrupt

    with pytest.raises(Exception, match="interrupted"):
        sweep(base, [1e-3, 1e-2], on_event=stop)
    assert not (base.out / "sweep.json").exists()
    events: list[Any] = []
    first = sweep(base, [1e-3, 1e-2], on_event=events.append)
    names = [event.name for event in events if isinstance(event, SweepRun)]
    assert len(names) == 2
    done = [event.round for event in events if isinstance(event, RoundDone)]
    assert done == [2, 3], "the finished run is not repeated, the other one goes on"
    more = sweep(base, [1e-3, 1e-2, 3e-2])
    assert more["rows"][:2] == first["rows"]


def test_a_diverging_rate_is_listed_and_never_chosen(request_for: RequestFor) -> None:
    base = request_for("sweep", local={"local_steps": 30})
    found = sweep(base, [1000.0, 1e-2], seeds=[0, 1])
    assert found["rows"][0]["failed"] == 2
    assert found["rows"][0]["validation_accuracy"] is None
    assert "went bad" in found["rows"][0]["runs"][0]["failed"]
    assert found["best"]["lr"] == 1e-2
    with pytest.raises(NumericsError, match="every learning rate diverged"):
        sweep(base, [1000.0])


@pytest.mark.parametrize(
    ("rates", "changes", "words"),
    [
        ([], {}, "--lr"),
        ([1e-3, -1.0], {}, "--lr"),
        ([1e-3], {"validation": 0.0}, "--validation"),
        ([1e-3], {"evaluate_every": 0}, "--evaluate-every"),
        ([1e-3], {"validation": 0.001}, "too few training rows"),
    ],
)
def test_bad_sweeps(
    request_for: RequestFor, rates: list[float], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        sweep(request_for("sweep", **changes), rates)


def test_a_run_folder_is_no_sweep_folder(request_for: RequestFor) -> None:
    base = request_for("run")
    engine.simulate(base)
    with pytest.raises(UsageError, match="holds a run"):
        sweep(base, [1e-3])
    shutil.rmtree(base.out)
    sweep(base, [1e-3])
    with pytest.raises(UsageError, match="holds no run"):
        engine.simulate(replace(base))
