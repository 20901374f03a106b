"""Several servers of one run: on one PostgreSQL and one S3-compatible store, a folder for each."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ravan_edge.artifact import Artifact
from ravan_edge.errors import StorageError, UsageError
from ravan_edge.protocol import (
    DeviceFailure,
    FailureReason,
    InviteDevices,
    Reason,
    Refusal,
    TaskOffer,
    WaitReason,
)
from ravan_edge.signing import device_of_key
from ravan_edge.training import LocalSettings
from ravan_server.coordinator import Coordinator
from ravan_server.settings import RoundSettings, ServerSettings
from ravan_server.store import PostgresqlStore, TaskState
from tests.server.server_kit import (
    Clock,
    Counted,
    ask,
    device_update,
    merged_heads,
    opened_server,
    send,
    wait_for,
    wait_until,
)
from tests.server.steps import do, heads, rounds, task, wait_reason
from tests.services.postgresql import Postgresql, missing_postgresql, postgresql_server
from tests.services.s3 import S3Server
from tests.tiny_artifact import make_tiny_artifact

ROUNDS = RoundSettings(local=LocalSettings(local_steps=1), goal=2, over_selection=1.5)

Opened = Callable[..., Coordinator]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("several") / "artifact")


@pytest.fixture
def settings(postgresql: Postgresql, s3: S3Server) -> ServerSettings:
    return shared_settings(postgresql.url(postgresql.new_database()), s3)


def shared_settings(url: str, s3: S3Server, **more: int) -> ServerSettings:
    return ServerSettings(
        shared=True,
        database=url,
        objects=f"s3://{s3.new_bucket()}/run",
        objects_endpoint=s3.endpoint,
        **more,
    )


@pytest.fixture
def opened(artifact: Artifact, tmp_path: Path, settings: ServerSettings) -> Iterator[Opened]:
    """``opened()``: one more server of the run."""
    with ExitStack() as stack:

        def open_one(
            rules: RoundSettings = ROUNDS,
            told: ServerSettings = settings,
            clock: Clock | None = None,
        ) -> Coordinator:
            folder = tmp_path / f"state-{len(list(tmp_path.glob('state-*')))}"
            served = opened_server(artifact, folder, clock or Clock(), rules, told)
            return stack.enter_context(served)

        yield open_one


def test_each_knows_what_the_others_did(opened: Opened, artifact: Artifact) -> None:
    """A device may ask one, send to another, and fetch from a third."""
    first, second, third = opened(), opened(), opened()
    one, two = task(first, 0), task(second, 1)
    assert (one.version, two.version) == (0, 0)
    assert {one.device, two.device} == {0, 1}, "each device has a number of its own"
    assert task(second, 0).task == one.task, "the task it has"
    assert third.task(two.task).task == two.task
    assert third.codec_of(third.task(two.task)) is not None, "so an update's codec is compared"
    do(second, one)
    assert send(third, device_update(artifact, one), one.task).status == "already_have_it"
    do(third, two)
    for server in (first, second, third):
        wait_for(server, 1)
        status = server.status()
        assert (status.devices, status.accepted, status.training) == (2, 0, 0)
    counted = [Counted(0, 0), Counted(1, 0)]
    before = heads(first, 0)
    for server in (first, second, third):
        found = heads(server, 1).read_bytes()
        assert found == merged_heads(artifact, before, counted, 0, most=2)
    assert task(third, 0).version == 1


def test_a_version_is_merged_once(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = [opened() for _ in range(3)]
    merges: list[int] = []
    for server in servers:
        merge = server._merger.merge

        def counting(attempt, updates, latest, now, merge=merge):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
            merges.append(attempt.id)
            return merge(attempt, updates, latest, now)

        monkeypatch.setattr(server._merger, "merge", counting)
    for version in range(4):
        offers = [task(server, number) for number, server in enumerate(servers[:2])]
        for offer, server in zip(offers, servers[1:], strict=True):
            do(server, offer)
        for server in servers:
            wait_for(server, version + 1)
    assert merges == [1, 2, 3, 4]


def test_what_another_one_assigned_and_stored_counts(opened: Opened) -> None:
    """As many tasks as there are places, whoever is asked; and whoever took part is told so by all."""
    first, second = opened(), opened()
    offers = [task(server, number) for number, server in enumerate((first, second, first))]
    for server in (first, second):
        assert wait_reason(server, 7) is WaitReason.ROUND_FULL
    second.give_back(
        offers[0].task, DeviceFailure(reason=FailureReason.CONDITIONS), "device-000"
    ).result(30)
    with pytest.raises(Refusal) as caught:
        do(first, offers[0])
    assert caught.value.reason is Reason.TASK_GIVEN_BACK
    do(first, offers[1])
    for server in (first, second):
        wait_until(lambda server=server: server.status().accepted == 1)  # type: ignore[misc]
        assert wait_reason(server, 1) is WaitReason.TOOK_PART
        assert server.status().training == 1


def test_asynchronous_rounds(opened: Opened, artifact: Artifact) -> None:
    """Tasks outlive the version that they start from, and end, wherever they are sent."""
    rules = rounds(goal=3, buffer=2, max_staleness=1)
    first, second = opened(rules), opened(rules)
    slow = task(first, 0)
    for version in range(2):
        for number, server in ((1, first), (2, second)):
            offer = task(server, number)
            assert offer.version == version
            do(second, offer)
        for server in (first, second):
            wait_for(server, version + 1)
        if not version:
            assert second.codec_of(second.task(slow.task)) is not None
    for server in (first, second):
        with pytest.raises(Refusal) as caught:
            do(server, slow)
        assert caught.value.reason is Reason.ROUND_OVER
        status = server.status()
        assert (status.training, status.accepted, status.version) == (0, 0, 2)
    found = [heads(server, 2).read_bytes() for server in (first, second)]
    counted = [Counted(number, 1) for number in (1, 2)]
    assert found == 2 * [merged_heads(artifact, heads(first, 1), counted, 1, most=2)]


def test_going_back_is_seen_by_all(opened: Opened) -> None:
    first, second = opened(), opened()
    for version in range(2):
        offers = [task(server, number) for number, server in enumerate((first, second))]
        for offer in offers:
            do(second, offer)
        wait_for(first, version + 1)
    wait_for(second, 2)
    out = task(first, 0)
    assert second.go_back(1).copy_of == 1
    wait_for(first, 3)
    with pytest.raises(Refusal) as caught:
        do(first, out)
    assert caught.value.reason is Reason.ROUND_OVER
    assert task(first, 0).heads == second.status().heads
    assert heads(first, 3).read_bytes()


def test_whoever_is_shut_out_by_one_is_shut_out_by_all(opened: Opened) -> None:
    first, second = opened(), opened()
    for server in (first, second):
        server.members.keyring.load()
    key = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    device = device_of_key(key)
    token = first.members.invite(InviteDevices()).token
    second.members.enrol(token, key.hex()).result(30)
    for server in (first, second):
        assert server.members.keyring.key(device)
        assert server.members.keyring.known(device)
    second.members.revoke(device)
    wait_until(lambda: not first.members.keyring.known(device))
    with pytest.raises(Refusal) as caught:
        first.members.keyring.key(device)
    assert caught.value.reason is Reason.REVOKED


def test_copies_go_with_their_versions(
    opened: Opened, tmp_path: Path, postgresql: Postgresql, s3: S3Server
) -> None:
    told = shared_settings(postgresql.url(postgresql.new_database()), s3, keep_versions=1)
    first, second = opened(told=told), opened(told=told)
    for version in range(3):
        for number in range(2):
            do(first, task(first, number))
        for server in (first, second):
            wait_for(server, version + 1)
            assert server.blob(server.status().heads)
    kept = {version.heads for version in first.versions() if version.available}
    assert len(kept) == 2, "version 0 and the latest"
    gone = next(version.heads for version in first.versions() if version.version == 1)
    for folder in tmp_path.glob("state-*/blobs"):
        (folder / gone).write_bytes(
            b"a copy whose version was forgotten after this process had looked"
        )
        wait_until(lambda folder=folder: {path.name for path in folder.iterdir()} <= kept)  # type: ignore[misc]
    for server in (first, second):
        with pytest.raises(Refusal) as caught:
            server.blob(gone)
        assert caught.value.reason is Reason.NO_SUCH_BLOB


@pytest.mark.parametrize(
    ("more", "missing"),
    [
        ({"objects": "s3://b/run"}, "--database"),
        ({"database": "postgresql:///x"}, "--objects"),
        (
            {"database": "postgresql:///x", "objects": "s3://b/run", "enrolment": True},
            "--operator-token-file",
        ),
    ],
)
def test_what_they_must_share_is_named(more: dict[str, Any], missing: str) -> None:
    with pytest.raises(UsageError) as caught:
        ServerSettings(shared=True, **more)
    assert str(caught.value).startswith("--shared: ")
    assert f"give {missing}," in str(caught.value)
    ServerSettings(**more)


class TestComingAndGoing:
    def test_deadlines_are_extended_only_by_one_that_comes_alone(
        self, artifact: Artifact, tmp_path: Path, settings: ServerSettings
    ) -> None:
        clock = Clock()
        with opened_server(artifact, tmp_path / "1", clock, ROUNDS, settings) as first:
            task(first, 0)
            clock.now += 100
            with opened_server(artifact, tmp_path / "2", clock, ROUNDS, settings) as second:
                assert second.status().deadline_seconds == 500
        with opened_server(artifact, tmp_path / "3", clock, ROUNDS, settings) as third:
            assert third.status().deadline_seconds == 600

    def test_one_that_joins_deletes_nothing(
        self, opened: Opened, s3: S3Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Not what is on its way, which looks like what a killed process left."""
        caplog.set_level(logging.INFO)
        first = opened()
        on_its_way = first._parts.blobs.put(b"heads of a version that is not recorded yet")
        assert "joined" not in {getattr(each, "event", None) for each in caplog.records}
        opened()
        assert "joined" in {getattr(each, "event", None) for each in caplog.records}
        assert list(s3.folder.rglob(on_its_way))

    def test_a_version_whose_files_a_recovery_may_have_deleted_is_made_again(
        self, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another process thought that it was alone: the first had lost its connection, not its life."""
        first = opened()
        merge, merged = first._merger.merge, threading.Event()

        def recovered(attempt, updates, latest, now):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
            version = merge(attempt, updates, latest, now)
            if not merged.is_set():
                merged.set()
                with first._store.writing() as transaction:
                    first._parts.blobs.delete(version.heads)
                    transaction.mark_recovered()
            return version

        monkeypatch.setattr(first._merger, "merge", recovered)
        for number in range(2):
            do(first, task(first, number))
        wait_for(first, 1)
        assert merged.is_set()
        assert heads(first, 1).read_bytes()

    def test_another_artifact_is_refused(
        self, opened: Opened, tmp_path: Path, settings: ServerSettings
    ) -> None:
        opened()
        other = make_tiny_artifact(tmp_path / "other", seed=1)
        with (
            pytest.raises(UsageError, match="the state belongs to artifact"),
            opened_server(other, tmp_path / "state", Clock(), ROUNDS, settings),
        ):
            pytest.fail("it may not serve")

    def test_tables_of_an_earlier_version_stay_while_others_use_them(
        self, opened: Opened, postgresql: Postgresql, s3: S3Server
    ) -> None:
        name = postgresql.new_database()
        url = postgresql.url(name)
        opened(told=shared_settings(url, s3))
        postgresql.execute("UPDATE run SET schema_version = 3", name)
        with pytest.raises(UsageError, match="and other processes serve it") as caught:
            PostgresqlStore(url, shared=True)
        assert "end them all" in str(caught.value)


def test_the_database_goes_away_and_comes_back(
    artifact: Artifact, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both go on by themselves, and are seen by one that comes afterwards."""
    missing = missing_postgresql()
    if missing is not None:
        pytest.skip(missing)
    monkeypatch.setattr("ravan_server.store.process_locks._LOOK_SECONDS", 0.1)
    with postgresql_server() as away, ExitStack() as stack:
        told = shared_settings(away.url(away.new_database()), s3)
        states = iter(range(9))

        def open_one() -> Coordinator:
            folder = tmp_path / f"state-{next(states)}"
            served = opened_server(artifact, folder, Clock(), ROUNDS, told)
            return stack.enter_context(served)

        servers = [open_one(), open_one()]
        offers = [task(server, number) for number, server in enumerate(servers)]
        do(servers[1], offers[0])
        away.stop()
        with pytest.raises((Refusal, StorageError)):
            do(servers[0], offers[1])
        away.start()

        def sent() -> bool:
            try:
                do(servers[0], offers[1])
            except (Refusal, StorageError):
                return False
            return True

        wait_until(sent)
        for server in servers:
            wait_for(server, 1)
        third = open_one()
        assert not third._store.alone
        offer = ask(third, "device-000")
        assert isinstance(offer, TaskOffer)
        assert offer.version == 1
        with third._store.reading() as transaction:
            merged = [row.state for row in transaction.tasks(1) if row.update]
        assert merged == 2 * [TaskState.MERGED]
