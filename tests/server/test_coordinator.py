"""Rounds as devices live through them: real store, real files, a clock that is told."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ravan_edge.artifact import Artifact, read_heads
from ravan_edge.errors import StorageError, UsageError
from ravan_edge.methods import method_for
from ravan_edge.protocol import (
    ComeBack,
    DeviceFailure,
    FailureReason,
    Reason,
    Refusal,
    RunState,
    TaskOffer,
    WaitReason,
)
from ravan_edge.training import LocalSettings
from ravan_server.coordinator import Coordinator
from ravan_server.settings import RoundSettings, ServerSettings
from ravan_server.store import SqliteStore
from tests.server.server_kit import (
    Clock,
    ask,
    device_update,
    expected_heads,
    opened_server,
    send,
    wait_for,
)
from tests.tiny_artifact import make_tiny_artifact

ROUNDS = RoundSettings(
    local=LocalSettings(local_steps=1), goal=3, over_selection=1.4, deadline_seconds=60
)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("server") / "artifact")


def offers(coordinator: Coordinator, count: int) -> list[TaskOffer]:
    found = [ask(coordinator, f"device-{number:03}") for number in range(count)]
    assert all(isinstance(each, TaskOffer) for each in found)
    return [each for each in found if isinstance(each, TaskOffer)]


def heads_path(coordinator: Coordinator) -> Path:
    return coordinator.blob(coordinator.status().heads)


def test_three_updates_make_the_exact_mean(artifact: Artifact, tmp_path: Path) -> None:
    with opened_server(artifact, tmp_path, Clock(), ROUNDS) as server:
        assert server.status().state is RunState.WAITING
        before = heads_path(server)
        found = offers(server, 5)
        assert [each.device for each in found] == [0, 1, 2, 3, 4]
        assert server.status().state is RunState.RUNNING
        # Another order than the tasks were given in.
        for offer in (found[4], found[0], found[2]):
            send(server, device_update(artifact, offer), offer.task)
        wait_for(server, 1)
        assert heads_path(server).read_bytes() == expected_heads(artifact, before, [0, 2, 4], 0)
        tensors = read_heads(heads_path(server), artifact)
        assert tensors.keys() == {entry.name for entry in artifact.manifest.tensors}
        status = server.status()
        assert (status.version, status.round, status.attempt) == (1, 2, 1)
        with pytest.raises(Refusal) as caught:
            send(server, device_update(artifact, found[1]), found[1].task)
        assert caught.value.reason is Reason.ROUND_OVER


def test_the_order_of_arrival_does_not_matter(artifact: Artifact, tmp_path: Path) -> None:
    digests = set()
    for number, order in enumerate([(0, 1, 2), (2, 0, 1), (1, 2, 0)]):
        with opened_server(artifact, tmp_path / str(number), Clock(), ROUNDS) as server:
            found = offers(server, 3)
            for index in order:
                send(server, device_update(artifact, found[index]), found[index].task)
            wait_for(server, 1)
            digests.add(server.status().heads)
    assert len(digests) == 1


def test_an_update_counts_once(artifact: Artifact, tmp_path: Path) -> None:
    with opened_server(artifact, tmp_path, Clock(), ROUNDS) as server:
        offer = offers(server, 1)[0]
        content = device_update(artifact, offer)
        assert send(server, content, offer.task).status == "accepted"
        assert send(server, content, offer.task).status == "already_have_it"
        assert server.status().accepted == 1
        other = content[:-4] + b"\0\0\0\0"
        with pytest.raises(Refusal) as caught:
            send(server, other, offer.task)
        assert caught.value.reason is Reason.DIFFERENT_UPDATE
        assert server.status().accepted == 1


def test_a_device_has_one_task_of_a_round(artifact: Artifact, tmp_path: Path) -> None:
    with opened_server(artifact, tmp_path, Clock(), ROUNDS) as server:
        first, again = ask(server, "device-000"), ask(server, "device-000")
        assert isinstance(first, TaskOffer)
        assert again == first
        assert server.status().training == 1
        send(server, device_update(artifact, first), first.task)
        after = ask(server, "device-000")
        assert isinstance(after, ComeBack)
        assert after.reason is WaitReason.TOOK_PART


def test_places_end_and_come_back(artifact: Artifact, tmp_path: Path) -> None:
    with opened_server(artifact, tmp_path, Clock(), ROUNDS) as server:
        found = offers(server, 5)
        full = ask(server, "device-late")
        assert isinstance(full, ComeBack)
        assert full.reason is WaitReason.ROUND_FULL
        assert full.earliest_seconds < full.latest_seconds
        failure = DeviceFailure(reason=FailureReason.OUT_OF_MEMORY, detail="13 MB missing")
        for _ in range(2):  # the answer may be lost and asked for again
            server.give_back(found[0].task, failure).result(30)
        assert server.status().training == 4
        assert isinstance(ask(server, "device-late"), TaskOffer)
        with pytest.raises(Refusal) as caught:
            send(server, device_update(artifact, found[0]), found[0].task)
        assert caught.value.reason is Reason.TASK_GIVEN_BACK


def test_a_deadline_without_enough_updates_repeats_the_round(
    artifact: Artifact, tmp_path: Path
) -> None:
    clock = Clock()
    with opened_server(artifact, tmp_path, clock, ROUNDS) as server:
        before = server.status().heads
        found = offers(server, 4)
        for offer in found[:2]:
            send(server, device_update(artifact, offer), offer.task)
        clock.now += 60
        server.turn()
        status = server.status()
        assert (status.version, status.round, status.attempt) == (0, 1, 2)
        assert (status.heads, status.failed_attempts) == (before, 1)
        assert (status.training, status.accepted) == (0, 0)
        again = offers(server, 4)
        assert not {each.task for each in found} & {each.task for each in again}
        assert [each.device for each in again] == [each.device for each in found]
        # What was stored for the failed attempt is still known, and does not count.
        content = device_update(artifact, found[0])
        assert send(server, content, found[0].task).status == "already_have_it"
        assert server.status().accepted == 0
        for offer in again[:3]:
            send(server, device_update(artifact, offer), offer.task)
        wait_for(server, 1)


def test_a_deadline_with_the_minimum_merges(artifact: Artifact, tmp_path: Path) -> None:
    clock = Clock()
    rounds = RoundSettings(local=ROUNDS.local, goal=3, minimum=2, deadline_seconds=60)
    with opened_server(artifact, tmp_path, clock, rounds) as server:
        before = heads_path(server)
        found = offers(server, 3)
        for offer in found[1:]:
            send(server, device_update(artifact, offer), offer.task)
        clock.now += 60
        server.turn()
        wait_for(server, 1)
        assert heads_path(server).read_bytes() == expected_heads(artifact, before, [1, 2], 0)


def test_a_run_ends_after_its_rounds_and_can_be_made_longer(
    artifact: Artifact, tmp_path: Path
) -> None:
    def one_round(server: Coordinator, version: int) -> None:
        for offer in offers(server, 3):
            send(server, device_update(artifact, offer), offer.task)
        wait_for(server, version)

    with opened_server(artifact, tmp_path, Clock(), ROUNDS, ServerSettings(rounds=1)) as server:
        one_round(server, 1)
        assert server.status().state is RunState.FINISHED
        waiting = ask(server, "device-000")
        assert isinstance(waiting, ComeBack)
        assert waiting.reason is WaitReason.FINISHED
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, ServerSettings(rounds=1)) as server:
        assert server.status().state is RunState.FINISHED
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, ServerSettings(rounds=2)) as server:
        assert server.status().state is RunState.WAITING
        one_round(server, 2)
        assert server.status().state is RunState.FINISHED


def test_a_run_made_shorter_still_merges_the_round_that_is_open(
    artifact: Artifact, tmp_path: Path
) -> None:
    """Devices may be training for it: their work is not thrown away, and it is the last."""
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, ServerSettings(rounds=5)) as server:
        for version in (1, 2):
            for offer in offers(server, 3):
                send(server, device_update(artifact, offer), offer.task)
            wait_for(server, version)
        found = offers(server, 3)
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, ServerSettings(rounds=1)) as server:
        assert server.status().state is RunState.RUNNING
        for offer in found:
            send(server, device_update(artifact, offer), offer.task)
        wait_for(server, 3)
        assert server.status().state is RunState.FINISHED


def test_a_restart_keeps_tasks_updates_and_settings(artifact: Artifact, tmp_path: Path) -> None:
    clock = Clock()
    with opened_server(artifact, tmp_path, clock, ROUNDS) as server:
        found = offers(server, 3)
        send(server, device_update(artifact, found[0]), found[0].task)
    clock.now += 1000
    other = RoundSettings(local=LocalSettings(local_steps=9), goal=2)
    with opened_server(artifact, tmp_path, clock, other) as server:
        status = server.status()
        assert (status.training, status.accepted, status.goal) == (2, 1, 3)
        assert ask(server, "device-001") == found[1].model_copy(update={"deadline_seconds": 60.0})
        for offer in found:
            send(server, device_update(artifact, offer), offer.task)
        wait_for(server, 1)
        following = offers(server, 1)[0]
        assert (following.local, server.status().goal) == (other.local, 2)


def test_updates_are_deleted_once_they_are_merged(artifact: Artifact, tmp_path: Path) -> None:
    with opened_server(artifact, tmp_path, Clock(), ROUNDS) as server:
        found = offers(server, 3)
        for offer in found[:2]:
            send(server, device_update(artifact, offer), offer.task)
        assert list((tmp_path / "updates").iterdir())
        send(server, device_update(artifact, found[2]), found[2].task)
        wait_for(server, 1)
        server.turn()
    assert not list((tmp_path / "updates").iterdir())


def test_a_state_belongs_to_one_artifact(artifact: Artifact, tmp_path: Path) -> None:
    with opened_server(artifact, tmp_path / "state", Clock(), ROUNDS):
        pass
    other = make_tiny_artifact(tmp_path / "other", seed=1)
    with (
        pytest.raises(UsageError, match="belongs to artifact"),
        opened_server(other, tmp_path / "state", Clock(), ROUNDS),
    ):
        pass


def test_conditions_are_asked_for(artifact: Artifact, tmp_path: Path) -> None:
    settings = ServerSettings(mains_power=True)
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, settings) as server:
        found = ask(server, "device-000")
        assert isinstance(found, ComeBack)
        assert found.reason is WaitReason.CONDITIONS


def test_version_0_is_the_artifacts_own_heads(artifact: Artifact, tmp_path: Path) -> None:
    with opened_server(artifact, tmp_path, Clock(), ROUNDS) as server:
        content = heads_path(server).read_bytes()
        assert hashlib.sha256(content).hexdigest() == artifact.heads_digest
        assert method_for(artifact.manifest).layout.size > 0


def test_a_disk_that_fails_altogether_stops_nothing_for_ever(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither written nor read: the writer goes on, and knows again what is stored once it can."""

    def fails(store: SqliteStore) -> None:
        raise StorageError("cannot read the database: disk I/O error", where=str(store))

    with opened_server(artifact, tmp_path, Clock(), ROUNDS) as server:
        found = offers(server, 3)
        send(server, device_update(artifact, found[0]), found[0].task)
        with monkeypatch.context() as patch:
            patch.setattr(SqliteStore, "writing", fails)
            patch.setattr(SqliteStore, "reading", fails)
            for _ in range(2):
                with pytest.raises(Refusal) as caught:
                    send(server, device_update(artifact, found[1]), found[1].task)
                assert caught.value.reason is Reason.STORAGE
        assert send(server, device_update(artifact, found[0]), found[0].task).status == (
            "already_have_it"
        )
        for offer in found[1:]:
            send(server, device_update(artifact, offer), offer.task)
        wait_for(server, 1)
        assert ask(server, "device-000").answer == "task"
