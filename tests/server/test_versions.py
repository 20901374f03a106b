"""Versions of the heads: kept, forgotten, gone back to, scored."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravan_edge.artifact import Artifact, read_heads
from ravan_edge.protocol import Reason, Refusal, TaskOffer
from ravan_edge.training import LocalSettings
from ravan_server.coordinator import Coordinator
from ravan_server.settings import RoundSettings, ServerSettings
from tests.server.server_kit import (
    Clock,
    ask,
    device_update,
    opened_server,
    send,
    wait_for,
    wait_until,
)
from tests.tiny_artifact import make_tiny_artifact, tiny_rows

ROUNDS = RoundSettings(local=LocalSettings(local_steps=1), goal=1, over_selection=1)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("versions") / "artifact")


def one_round(server: Coordinator) -> None:
    version = server.status().version
    offer = ask(server, "device-000")
    assert isinstance(offer, TaskOffer)
    assert offer.version == version
    send(server, device_update(server.artifact, offer), offer.task)
    wait_for(server, version + 1)
    server.turn()  # what follows a merge is done


def test_versions_are_listed_latest_first(artifact: Artifact, tmp_path: Path) -> None:
    with opened_server(artifact, tmp_path, Clock(), ROUNDS) as server:
        one_round(server)
        found = server.versions()
        assert [(each.version, each.updates, each.available) for each in found] == [
            (1, 1, True),
            (0, 0, True),
        ]
        assert found[0].heads == server.status().heads
        assert found[0].made_at == "1970-01-12T13:46:40+00:00"


def test_the_retention_rule_keeps_the_first_and_the_latest(
    artifact: Artifact, tmp_path: Path
) -> None:
    settings = ServerSettings(keep_versions=2)
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, settings) as server:
        for _ in range(4):
            one_round(server)
        found = server.versions()
        assert [each.version for each in found if each.available] == [4, 3, 0]
        for each in found:
            if each.available:
                assert server.blob(each.heads).is_file()
            else:
                with pytest.raises(Refusal) as caught:
                    server.blob(each.heads)
                assert caught.value.reason is Reason.NO_SUCH_BLOB
    assert len(list((tmp_path / "blobs").iterdir())) == 3


def test_going_back_makes_a_new_version_of_old_heads(artifact: Artifact, tmp_path: Path) -> None:
    with opened_server(artifact, tmp_path, Clock(), ROUNDS) as server:
        for _ in range(2):
            one_round(server)
        offer = ask(server, "device-000")
        assert isinstance(offer, TaskOffer)
        found = server.go_back(1)
        assert (found.version, found.copy_of, found.updates) == (3, 1, 0)
        status = server.status()
        assert (status.version, status.heads, status.round, status.attempt) == (
            3,
            found.heads,
            3,
            2,
        )
        old = read_heads(server.blob(server.versions()[2].heads), artifact)
        new = read_heads(server.blob(found.heads), artifact)
        assert all((old[name] == new[name]).all() for name in old)
        with pytest.raises(Refusal) as caught:
            send(server, device_update(artifact, offer), offer.task)
        assert caught.value.reason is Reason.ROUND_OVER
        one_round(server)
        assert server.status().version == 4


def test_a_finished_run_can_go_back_and_then_go_on(artifact: Artifact, tmp_path: Path) -> None:
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, ServerSettings(rounds=1)) as server:
        one_round(server)
        server.go_back(0)
        assert server.status().state == "finished"
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, ServerSettings(rounds=2)) as server:
        assert server.status().version == 2
        one_round(server)
        assert [each.copy_of for each in server.versions()] == [None, 0, None, None]


@pytest.mark.parametrize("version", [1, 5])
def test_only_what_is_kept_can_be_gone_back_to(
    artifact: Artifact, tmp_path: Path, version: int
) -> None:
    settings = ServerSettings(keep_versions=1)
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, settings) as server:
        for _ in range(2):
            one_round(server)
        with pytest.raises(Refusal) as caught:
            server.go_back(version)
        assert caught.value.reason is Reason.NO_SUCH_VERSION


def test_versions_are_scored_in_another_process(artifact: Artifact, tmp_path: Path) -> None:
    rows = tmp_path / "test.csv"
    lines = [f"{text},{label}" for text, label in tiny_rows(20)]
    rows.write_text("\n".join(["text,label", *lines]) + "\n")
    state = tmp_path / "state"
    options = ["--data", str(rows)]
    with opened_server(artifact, state, Clock(), ROUNDS, evaluation=options) as server:
        wait_until(lambda: server.versions()[0].scores is not None)
        one_round(server)
        wait_until(lambda: server.versions()[0].scores is not None)
        scores = server.versions()[0].scores
        assert scores is not None
        assert scores["count"] == 20
        assert 0 <= (scores["accuracy"] or 0) <= 1


def test_rows_that_cannot_be_scored_stop_nothing(
    artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["--data", str(tmp_path / "missing.csv")]
    with opened_server(artifact, tmp_path / "state", Clock(), ROUNDS, evaluation=options) as server:
        one_round(server)
        wait_until(lambda: "could not be evaluated" in caplog.text)
        assert "missing.csv" in caplog.text
        one_round(server)
