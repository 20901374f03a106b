"""Rounds on a real server, over HTTP: the bits of the simulation in one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ravan_edge.device.training as device_training
from ravan_edge.errors import NumericsError, RavanError, WorkerError
from ravan_edge.methods import Vector
from ravan_edge.simulate import simulate, worker
from ravan_edge.training import LocalResult, local_round
from tests.simulate.conftest import RequestFor
from tests.simulate.server_runs import (
    RealClock,
    run,
    same,
    server_for,
)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("ravan", {"partition": "dirichlet:0.3", "head_budgets": "1:0.25,3:0.5,4:0.25"}),
        ("ravan", {"seed": 7, "local": {"micro_batch": 3}}),
        pytest.param("fedit", {"per_round": 5}, marks=pytest.mark.slow),
        pytest.param("head-only", {"evaluate_every": 2}, marks=pytest.mark.slow),
    ],
    ids=["head budgets", "micro-batches", "fedit", "head-only"],
)
def test_a_server_makes_the_same_bits(
    request_for: RequestFor, tmp_path: Path, method: str, settings: dict[str, Any]
) -> None:
    here = request_for("here", method=method, **settings)
    expected = run(here, workers=2)
    assert sorted(expected) == [0, 1, 2, 3] if here.settings.evaluate_every == 1 else True
    assert len(set(expected.values())) == len(expected), "every round changes the heads"
    with server_for(replace(here, out=tmp_path / "there"), tmp_path / "state") as (server, there):
        assert run(there, workers=2) == expected
        merged = [version.updates for version in reversed(server.versions())]
        assert merged == [0, *[here.settings.per_round] * here.settings.rounds]
    same(there.out, here.out)


def test_a_finished_run_asks_nobody(request_for: RequestFor, tmp_path: Path) -> None:
    with server_for(request_for("there"), tmp_path / "state") as (_, there):
        summary = simulate(there, workers=1)
    assert simulate(there, workers=1) == summary


def test_the_command_names_the_server(request_for: RequestFor) -> None:
    request = replace(request_for(), server="http://127.0.0.1:8750")
    assert "--server http://127.0.0.1:8750" in request.command()
    assert request.provenance()["server"] == "http://127.0.0.1:8750"
    assert "server" not in request_for().provenance()


def failing(device: int, error: type[RavanError]) -> Callable[..., LocalResult]:
    """``local_round``, but one device always fails."""

    def fails(*arguments: Any, **named: Any) -> LocalResult:
        if named["device"] == device:
            raise error("made to fail", where=f"device {device}")
        return local_round(*arguments, **named)

    return fails


@pytest.mark.parametrize("error", [NumericsError, WorkerError])
@pytest.mark.usefixtures("in_process")
def test_failed_devices_are_left_out(
    request_for: RequestFor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[RavanError],
) -> None:
    here = request_for("here", devices=3, rounds=1)
    for module in (worker, device_training):
        monkeypatch.setattr(module, "local_round", failing(1, error))
    expected = run(here)
    rounds = {"minimum": 2, "deadline_seconds": 2.0}
    with server_for(
        replace(here, out=tmp_path / "there"), tmp_path / "state", RealClock(), rounds
    ) as (_, there):
        assert run(there) == expected
    same(there.out, here.out)


@pytest.mark.usefixtures("in_process")
def test_a_server_that_waits_in_vain_for_a_failed_device(
    request_for: RequestFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_training, "local_round", failing(1, NumericsError))
    request = request_for("there", devices=3, rounds=1)
    rounds = {"deadline_seconds": 1.0}
    with (
        server_for(request, tmp_path / "state", RealClock(), rounds) as (_, there),
        pytest.raises(NumericsError, match=r"1 of 3 devices failed .*made to fail.*--minimum"),
    ):
        simulate(there, workers=1)


@pytest.mark.usefixtures("in_process")
def test_a_difference_that_cannot_be_added_is_the_same_failure(
    request_for: RequestFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def far(*arguments: Any, **named: Any) -> LocalResult:
        found = local_round(*arguments, **named)
        difference: Vector = np.full_like(found.difference, 64)
        return replace(found, difference=difference)

    here = request_for("here", rounds=1)
    for module in (worker, device_training):
        monkeypatch.setattr(module, "local_round", far)
    with pytest.raises(NumericsError, match="went bad") as expected:
        simulate(here, workers=1)
    with (
        server_for(replace(here, out=tmp_path / "there"), tmp_path / "state") as (_, there),
        pytest.raises(NumericsError) as found,
    ):
        simulate(there, workers=1)
    assert found.value.message == expected.value.message
    name = "metrics.jsonl"
    assert (there.out / name).read_bytes() == (here.out / name).read_bytes()
