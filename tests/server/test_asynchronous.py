"""Asynchronous rounds: devices do not wait for each other, and every --buffer updates make a version."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from ravan_edge.artifact import Artifact
from ravan_edge.merge import staleness_factor
from ravan_edge.protocol import (
    DeviceFailure,
    FailureReason,
    InviteDevices,
    Reason,
    TaskOffer,
    WaitReason,
)
from ravan_edge.signing import device_of_key
from ravan_server.coordinator import Coordinator
from ravan_server.settings import ServerSettings
from ravan_server.store import TaskState
from tests.server.server_kit import (
    Clock,
    Counted,
    ask,
    merged_heads,
    opened_server,
    wait_for,
    wait_until,
)
from tests.server.steps import do, heads, refusal, rounds, rows, slow_device, task, wait_reason
from tests.tiny_artifact import make_tiny_artifact


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("buffered") / "artifact")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(artifact: Artifact, tmp_path: Path, clock: Clock) -> Iterator[Coordinator]:
    with opened_server(artifact, tmp_path, clock, rounds()) as found:
        yield found


def test_a_device_that_is_slow_is_merged_into_a_later_version_with_less_weight(
    server: Coordinator, artifact: Artifact
) -> None:
    slow = slow_device(server)
    status = server.status()
    assert (status.mode, status.goal, status.training, status.accepted) == ("async", 2, 1, 0)
    third = task(server, 1)
    assert third.version == 1
    do(server, third)
    do(server, slow)
    wait_for(server, 2)
    factor = round(2**32 / math.sqrt(2))  # one version was made meanwhile
    assert factor == staleness_factor(1)
    before = heads(server, 1)
    assert heads(server, 2).read_bytes() == merged_heads(
        artifact, before, [Counted(third.device, 1), Counted(slow.device, 0, 1, factor)], 1, most=2
    )


def test_a_device_gets_a_place_as_soon_as_one_is_free(server: Coordinator) -> None:
    offers = [task(server, number) for number in range(3)]
    assert wait_reason(server, 3) is WaitReason.ROUND_FULL
    do(server, offers[0])
    assert task(server, 3).version == 0, "an update that is stored takes no place"
    assert wait_reason(server, 0) is WaitReason.TOOK_PART, "once from each version"


def test_the_same_task_again_while_it_is_out_also_when_a_version_was_made(
    server: Coordinator,
) -> None:
    slow = slow_device(server)
    again = task(server, 0)
    assert again == slow
    assert again.version == 0


def test_too_stale_tasks_end_and_free_their_places(
    artifact: Artifact, tmp_path: Path, clock: Clock
) -> None:
    settings = rounds(buffer=1, max_staleness=1)
    with opened_server(artifact, tmp_path, clock, settings) as server:
        slow = task(server, 0)
        for version in range(2):
            do(server, task(server, 1))
            wait_for(server, version + 1)
            assert server.status().training == (1 if version < 1 else 0)
        found = refusal(server, slow)
        assert found.reason is Reason.ROUND_OVER
        assert "version 0" in str(found)
        assert task(server, 0).version == 2
    assert rows(tmp_path)[slow.task].state is TaskState.STALE


def test_an_update_of_the_largest_staleness_is_taken(
    artifact: Artifact, tmp_path: Path, clock: Clock
) -> None:
    with opened_server(artifact, tmp_path, clock, rounds(buffer=1, max_staleness=1)) as server:
        slow = task(server, 0)
        do(server, task(server, 1))
        wait_for(server, 1)
        do(server, slow)
        wait_for(server, 2)
    found = rows(tmp_path)[slow.task]
    assert found.state is TaskState.MERGED
    assert found.update is not None
    assert found.update.factor == staleness_factor(1)


def test_a_task_has_a_deadline_of_its_own(
    server: Coordinator, clock: Clock, tmp_path: Path
) -> None:
    first = task(server, 0)
    clock.now += 30
    second = task(server, 1)
    assert first.deadline_seconds == second.deadline_seconds == 60
    clock.now += 31
    server.turn()
    assert server.status().training == 1
    assert refusal(server, first).reason is Reason.ROUND_OVER
    do(server, second)
    status = server.status()
    assert (status.accepted, status.failed_attempts) == (1, 0), "it never fails, it waits on"
    assert rows(tmp_path)[first.task].state is TaskState.LATE


def test_at_the_deadline_the_minimum_makes_a_version(
    artifact: Artifact, tmp_path: Path, clock: Clock
) -> None:
    with opened_server(artifact, tmp_path, clock, rounds(minimum=1)) as server:
        first, slow = task(server, 0), task(server, 1)
        do(server, first)
        clock.now += 59
        server.turn()
        assert server.status().version == 0
        clock.now += 2
        server.turn()
        wait_for(server, 1)
        assert refusal(server, slow).reason is Reason.ROUND_OVER


def test_with_too_few_at_the_deadline_the_next_update_makes_a_version(
    artifact: Artifact, tmp_path: Path, clock: Clock
) -> None:
    with opened_server(artifact, tmp_path, clock, rounds(minimum=1)) as server:
        task(server, 0)
        clock.now += 100
        server.turn()
        assert server.status().failed_attempts == 0
        do(server, task(server, 1))
        server.turn()
        wait_for(server, 1)


def test_giving_a_task_of_an_earlier_version_back_frees_its_place(server: Coordinator) -> None:
    slow = slow_device(server)
    server.give_back(slow.task, DeviceFailure(reason=FailureReason.DATA)).result(30)
    assert server.status().training == 0
    assert task(server, 0).version == 1


def test_a_restart_keeps_what_is_out_and_what_is_stored(
    artifact: Artifact, tmp_path: Path, clock: Clock
) -> None:
    with opened_server(artifact, tmp_path, clock, rounds()) as server:
        slow = slow_device(server)
        third = task(server, 1)
        do(server, third)
    clock.now += 1000  # nobody could reach it
    with opened_server(artifact, tmp_path, clock, rounds()) as server:
        status = server.status()
        assert (status.version, status.training, status.accepted) == (1, 1, 1)
        server.turn()
        assert task(server, 0).deadline_seconds == 60
        do(server, slow)
        wait_for(server, 2)
        assert heads(server, 2).read_bytes() == merged_heads(
            artifact,
            heads(server, 1),
            [Counted(third.device, 1), Counted(slow.device, 0, 1, staleness_factor(1))],
            1,
            most=2,
        )


def test_an_update_that_comes_while_a_version_is_made_is_sent_again(
    server: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge, waiting = server._merger.merge, True

    def slow_merge(*arguments: object) -> object:
        wait_until(lambda: not waiting)
        return merge(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(server._merger, "merge", slow_merge)
    slow, first, second = (task(server, number) for number in range(3))
    do(server, first)
    do(server, second)
    found = refusal(server, slow)
    assert found.reason is Reason.BUSY
    assert not found.problem.permanent
    assert found.retry_after_seconds == 1.0
    waiting = False
    wait_for(server, 1)
    do(server, slow)
    assert server.status().accepted == 1


def test_going_back_to_older_heads_ends_what_is_out(server: Coordinator, tmp_path: Path) -> None:
    slow = slow_device(server)
    third = task(server, 1)
    do(server, third)
    server.go_back(0)
    assert server.status().training == 0
    assert refusal(server, slow).reason is Reason.ROUND_OVER
    assert task(server, 0).version == 2
    found = rows(tmp_path)
    assert found[slow.task].state is TaskState.LATE
    assert found[third.task].state is TaskState.UNUSED


def test_the_last_version_ends_what_is_out(
    artifact: Artifact, tmp_path: Path, clock: Clock
) -> None:
    settings = ServerSettings(rounds=1)
    with opened_server(artifact, tmp_path, clock, rounds(), settings) as server:
        slow = slow_device(server)
        assert server.status().state == "finished"
        assert refusal(server, slow).reason is Reason.ROUND_OVER
        assert wait_reason(server, 0) is WaitReason.FINISHED


def test_heads_that_a_task_starts_from_are_kept(
    artifact: Artifact, tmp_path: Path, clock: Clock
) -> None:
    settings = ServerSettings(keep_versions=1)
    with opened_server(artifact, tmp_path, clock, rounds(buffer=1), settings) as server:
        do(server, task(server, 1))
        wait_for(server, 1)
        slow = task(server, 0)
        for version in range(1, 4):
            do(server, task(server, 1))
            wait_for(server, version + 1)
        server.turn()
        available = {each.version for each in server.versions() if each.available}
        assert available == {0, 1, 4}
        assert server.blob(slow.heads).exists()
        do(server, slow)
        wait_for(server, 5)
        do(server, task(server, 1))
        wait_for(server, 6)
        server.turn()
        assert {each.version for each in server.versions() if each.available} == {0, 6}


def test_revoking_a_device_takes_all_of_it_out_of_the_buffer(
    artifact: Artifact, tmp_path: Path, clock: Clock
) -> None:
    with opened_server(artifact, tmp_path, clock, rounds(goal=4, buffer=3)) as server:
        token = server.members.invite(InviteDevices(uses=1)).token
        row = server.members.enrol(token, "ab" * 32).result(30)
        assert row.device == device_of_key(bytes.fromhex("ab" * 32))

        def mine() -> TaskOffer:
            found = ask(server, row.device)
            assert isinstance(found, TaskOffer)
            return found

        old = mine()
        for number in range(3):
            do(server, task(server, number))
        wait_for(server, 1)
        do(server, old)
        new = mine()
        assert new.version == 1
        assert (server.status().accepted, server.status().training) == (1, 1)
        server.members.revoke(row.device)
        assert (server.status().accepted, server.status().training) == (0, 0)
    found = rows(tmp_path)
    assert found[old.task].state is TaskState.UNUSED
    assert found[new.task].state is TaskState.GIVEN_BACK
