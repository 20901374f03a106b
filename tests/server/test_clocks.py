"""Whoever sets the system's clock ends no attempt and lengthens none."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ravan_edge.artifact import Artifact
from ravan_edge.training import LocalSettings
from ravan_server.parts import steady_clock
from ravan_server.serving import open_coordinator
from ravan_server.settings import RoundSettings, ServerSettings
from tests.server.server_kit import ask
from tests.tiny_artifact import make_tiny_artifact


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("clocks") / "artifact")


def test_the_clock_begins_with_the_wall_clock_and_goes_on_without_it() -> None:
    wall, monotonic = [1_800_000_000.0], [50.0]
    clock = steady_clock(lambda: wall[0], lambda: monotonic[0])
    assert clock() == 1_800_000_000.0
    wall[0] -= 3600
    monotonic[0] += 2
    assert clock() == 1_800_000_002.0
    assert abs(steady_clock()() - time.time()) < 5


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_jump_of_the_system_s_clock_changes_no_deadline(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    rounds = RoundSettings(local=LocalSettings(local_steps=1), deadline_seconds=600)
    real, ahead = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])
    server = open_coordinator(artifact, tmp_path, rounds, ServerSettings())
    server.start()
    try:
        assert ask(server, "device-000").answer == "task"
        ahead[0] = jump
        server.turn()
        status = server.status()
        assert (status.state, status.attempt, status.failed_attempts) == ("running", 1, 0)
        assert status.deadline_seconds == pytest.approx(600, abs=60)
        offer = ask(server, "device-000")
        assert offer.answer == "task"
        assert offer.deadline_seconds == pytest.approx(600, abs=60)
        # What others say of the time is compared with the system's clock, as it is now.
        assert server.now() == pytest.approx(real() + jump, abs=60)
    finally:
        server.stop()
