"""What an attempt that came to nothing leaves on the disk while the server runs: nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravan_edge.artifact import Artifact
from ravan_edge.protocol import DeviceFailure, FailureReason, TaskOffer, WaitReason
from ravan_edge.training import LocalSettings
from ravan_server.coordinator import Coordinator
from ravan_server.settings import RoundSettings
from tests.server.server_kit import Clock, ask, device_update, opened_server, send, wait_until
from tests.tiny_artifact import make_tiny_artifact

ROUNDS = RoundSettings(local=LocalSettings(local_steps=1), goal=2, deadline_seconds=60)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("server") / "artifact")


def one_of_two(server: Coordinator) -> None:
    offer = ask(server, "device-1")
    assert isinstance(offer, TaskOffer)
    send(server, device_update(server.artifact, offer), offer.task)


def test_updates_of_an_attempt_that_failed_are_deleted(artifact: Artifact, tmp_path: Path) -> None:
    clock = Clock()
    with opened_server(artifact, tmp_path, clock, ROUNDS) as server:
        for _ in range(3):
            one_of_two(server)
            clock.now += 61
            server.turn()
        assert server.status().failed_attempts == 3
        assert list((tmp_path / "updates").iterdir()) == []


def test_updates_that_an_operator_did_not_want_are_deleted(
    artifact: Artifact, tmp_path: Path
) -> None:
    with opened_server(artifact, tmp_path, Clock(), ROUNDS) as server:
        one_of_two(server)
        server.go_back(0)
        wait_until(lambda: not list((tmp_path / "updates").iterdir()), 10)


def test_ever_new_devices_that_give_back_do_not_fill_the_server(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ravan_server.waiting._MORE_TRIES", 5)
    clock, places = Clock(), ROUNDS.places
    with opened_server(artifact, tmp_path, clock, ROUNDS) as server:
        given = 0
        while isinstance(offer := ask(server, f"device-{given:04}"), TaskOffer):
            server.give_back(offer.task, DeviceFailure(reason=FailureReason.OTHER)).result(30)
            given += 1
            assert given < 200
        assert offer.reason is WaitReason.ROUND_FULL
        assert given == 10 * places + 5
        clock.now += 61
        server.turn()
        assert isinstance(ask(server, "device-0000"), TaskOffer), "the next attempt begins anew"


def test_heads_that_became_no_version_are_deleted_at_the_start(
    artifact: Artifact, tmp_path: Path
) -> None:
    with opened_server(artifact, tmp_path, Clock(), ROUNDS) as server:
        lost = server._parts.blobs.put(b"a merge that a rollback overtook")
        heads = server.status().heads
        (tmp_path / "blobs" / "a-note-of-somebody").touch()
    with opened_server(artifact, tmp_path, Clock(), ROUNDS):
        names = {path.name for path in (tmp_path / "blobs").iterdir()}
    assert lost not in names
    assert names == {heads, "a-note-of-somebody"}
