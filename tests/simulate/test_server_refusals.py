"""What does not fit between a simulation and its server is refused, with its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ravan_edge.device.training as device_training
from ravan_edge.errors import ServerRefusedError, UsageError
from ravan_edge.merge import RoundMode, RoundRule
from ravan_edge.simulate import simulate
from tests.server.server_kit import ask, wait_until
from tests.simulate.conftest import RequestFor, Tiny
from tests.simulate.server_runs import (
    killed,
    server_for,
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop_out": 0.1}, "--drop-out: 0.1 together with --server"),
        ({"deadline_seconds": 60.0}, "--deadline-seconds: 60 together with --server"),
    ],
)
def test_what_only_a_simulated_server_can_do_is_refused(
    request_for: RequestFor, settings: dict[str, Any], message: str
) -> None:
    request = replace(request_for(**settings), server="http://127.0.0.1:9")
    with pytest.raises(UsageError, match=message):
        simulate(request, workers=1)
    assert not request.out.exists()


@pytest.mark.parametrize(
    ("rounds", "settings", "message"),
    [
        ({"goal": 4}, {}, r"--per-round: 3, but the server's --goal is 4\..*--goal 3"),
        ({}, {"rounds": 9}, r"--rounds: 3, but the server's --rounds is 9"),
        ({}, {"seed": 5}, r"--server: --seed is 5 on the server and 0 here"),
        (
            {"rule": RoundRule(RoundMode.ASYNC)},
            {},
            r"--server: the server's rounds are asynchronous",
        ),
    ],
    ids=["goal", "rounds", "seed", "mode"],
)
@pytest.mark.usefixtures("in_process")
def test_other_settings_of_the_server_are_refused(
    request_for: RequestFor,
    tmp_path: Path,
    rounds: dict[str, Any],
    settings: dict[str, Any],
    message: str,
) -> None:
    with (
        server_for(request_for(), tmp_path / "state", attempts=rounds, **settings) as (
            server,
            there,
        ),
        pytest.raises(UsageError, match=message),
    ):
        simulate(there, workers=1)
    assert server.status().training == 0, "the task was given back"


@pytest.mark.usefixtures("in_process")
def test_other_local_settings_are_refused_each_with_both_values(
    request_for: RequestFor, tmp_path: Path
) -> None:
    request = request_for(local={"lr": 0.02, "clip_norm": 1.0})
    with server_for(request_for("other"), tmp_path / "state") as (_, there):
        asking = replace(request, server=there.server)
        with pytest.raises(UsageError) as caught:
            simulate(asking, workers=1)
    assert "--lr is 0.01 on the server and 0.02 here" in str(caught.value)
    assert "--clip-norm is None on the server and 1.0 here" in str(caught.value)


def test_another_artifact_is_refused(request_for: RequestFor, tiny: Tiny, tmp_path: Path) -> None:
    with server_for(request_for(), tmp_path / "state") as (_, there):
        other = replace(there, artifact=tiny.artifact("fedit"))
        with pytest.raises(UsageError, match=r"server's artifact is [0-9a-f]{64}, this one is"):
            simulate(other, workers=1)
    assert not other.out.exists()


@pytest.mark.usefixtures("in_process")
def test_a_server_that_is_further_is_refused(request_for: RequestFor, tmp_path: Path) -> None:
    with server_for(request_for("first"), tmp_path / "state") as (_, there):
        simulate(there, workers=1)
        with pytest.raises(UsageError, match=r"at version 3, this run at version 0\..*--state"):
            simulate(replace(there, out=tmp_path / "second"), workers=1)


@pytest.mark.usefixtures("in_process")
def test_a_server_one_round_ahead_of_a_run_that_did_not_train_is_refused(
    request_for: RequestFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server_for(request_for("first"), tmp_path / "state") as (server, there):
        killed(monkeypatch, there, 1)
        wait_until(lambda: server.status().version == 1)
        with pytest.raises(UsageError, match=r"only 0 of 3 devices have done round 1"):
            simulate(replace(there, out=tmp_path / "second"), workers=1)


@pytest.mark.usefixtures("in_process")
def test_other_heads_of_the_same_version_are_refused(
    request_for: RequestFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = (
        request_for("mine", rounds=2),
        request_for("other", rounds=2, partition="dirichlet:1"),
    )
    killed(monkeypatch, mine, 2)
    with server_for(other, tmp_path / "state") as (server, there):
        killed(monkeypatch, there, 1)
        wait_until(lambda: server.status().version == 1)
        with pytest.raises(UsageError, match="heads of version 1 are not those of this run"):
            simulate(replace(mine, server=there.server), workers=1)


@pytest.mark.usefixtures("in_process")
def test_a_server_that_lost_its_state_is_refused(
    request_for: RequestFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server_for(request_for(), tmp_path / "state") as (_, there):
        killed(monkeypatch, there, 1)
    with (
        server_for(request_for(), tmp_path / "another-state") as (_, there),
        pytest.raises(UsageError, match="has 0 updates of round 1, and 3 devices of this run"),
    ):
        simulate(there, workers=1)


@pytest.mark.usefixtures("in_process")
def test_devices_of_others_are_refused(request_for: RequestFor, tmp_path: Path) -> None:
    with server_for(request_for(), tmp_path / "state") as (server, there):
        ask(server, "somebody-else")
        with pytest.raises(UsageError, match="1 devices have a task of round 1, and 0 of them"):
            simulate(there, workers=1)


@pytest.mark.usefixtures("in_process")
def test_updates_that_the_server_never_takes_end_the_run(
    request_for: RequestFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_training, "encode_update", lambda *_: b"this is none")
    with (
        server_for(request_for(), tmp_path / "state") as (_, there),
        pytest.raises(ServerRefusedError, match=r"round 1: .*device \d+ \(bad_update\)"),
    ):
        simulate(there, workers=1)
