"""Simulations on a server are killed, both of them, at any moment: no bit changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import ravan_edge.device.training as device_training
from tests.server.server_kit import Clock, wait_until
from tests.simulate.conftest import RequestFor
from tests.simulate.faults import Killed
from tests.simulate.server_runs import (
    Heads,
    KillAtRequest,
    killed,
    run,
    same,
    server_for,
)


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> KillAtRequest:
    """Kills at requests."""
    return KillAtRequest(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["after", "before"])
@pytest.mark.usefixtures("in_process")
def test_killed_at_every_request(
    request_for: RequestFor, tmp_path: Path, kill_at: KillAtRequest, when: str
) -> None:
    here = request_for("here", rounds=2, per_round=2)
    expected = run(here)
    number, ended = 0, False
    while not ended:
        number += 1
        request = replace(here, out=tmp_path / f"there{number}")
        with server_for(request, tmp_path / f"state{number}") as (_, there):
            heads: Heads = {}
            kill_at.set(number, when)
            try:
                run(there, heads)
                ended = True
            except Killed:
                kill_at.set(0, "")
                run(there, heads)
        assert heads == expected
        same(there.out, here.out)
    assert number > 15, "there are as many requests"


@pytest.mark.usefixtures("in_process")
def test_a_kill_behind_the_merge_trains_nobody_again(
    request_for: RequestFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = request_for("here", rounds=1)
    expected = run(here)
    with server_for(replace(here, out=tmp_path / "there"), tmp_path / "state") as (server, there):
        killed(monkeypatch, there, 1)
        assert server.status().version == 1
        monkeypatch.delattr(device_training, "local_round")  # whoever trains now fails at once
        assert run(there) == {1: expected[1]}
    same(there.out, here.out)


@pytest.mark.usefixtures("in_process")
def test_a_deadline_that_passes_during_a_kill_costs_the_round_and_no_bit(
    request_for: RequestFor, tmp_path: Path, kill_at: KillAtRequest
) -> None:
    here = request_for("here", rounds=2)
    expected = run(here)
    clock = Clock()
    with server_for(replace(here, out=tmp_path / "there"), tmp_path / "state", clock) as (
        server,
        there,
    ):
        heads: Heads = {}
        kill_at.set(14, "after")
        with pytest.raises(Killed):
            run(there, heads)
        status = server.status()
        assert status.training + status.accepted > 0
        clock.now += 10_000
        wait_until(lambda: server.status().failed_attempts == 1)
        kill_at.set(0, "")
        assert run(there, heads) == expected
    same(there.out, here.out)


@pytest.mark.parametrize("number", [3, 13, 17])
@pytest.mark.usefixtures("in_process")
def test_both_are_killed_and_the_server_comes_back_elsewhere(
    request_for: RequestFor, tmp_path: Path, kill_at: KillAtRequest, number: int
) -> None:
    here = request_for("here", rounds=2)
    expected = run(here)
    request, heads = replace(here, out=tmp_path / "there"), {}  # type: tuple[SimulationRequest, Heads]
    with server_for(request, tmp_path / "state") as (_, there):
        kill_at.set(number, "after")
        with pytest.raises(Killed):
            run(there, heads)
        kill_at.set(0, "")
    with server_for(request, tmp_path / "state") as (_, there):
        assert run(there, heads) == expected
    same(there.out, here.out)
