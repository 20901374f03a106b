"""A server on PostgreSQL: its address, its secrets, and what happens while it is away."""

from __future__ import annotations

import copy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest

from ravan_edge.artifact import Artifact
from ravan_edge.errors import StorageError
from ravan_edge.protocol import Reason, Refusal, TaskOffer
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
from tests.server.steps import one_round
from tests.services.postgresql import (
    PASSWORD,
    Postgresql,
    missing_postgresql,
    postgresql_binaries,
    postgresql_server,
)
from tests.tiny_artifact import make_tiny_artifact

Answer = TypeVar("Answer")

ROUNDS = RoundSettings(local=LocalSettings(local_steps=1), goal=2, over_selection=1)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("postgresql") / "artifact")


@pytest.fixture
def away() -> Iterator[Postgresql]:
    """One that a test may stop and kill, with everything that makes it durable."""
    missing = missing_postgresql()
    if missing is not None:
        pytest.skip(missing)
    with postgresql_server() as server:
        yield server


def settings_of(url: str) -> ServerSettings:
    return ServerSettings(database=url)


def test_a_run_goes_on_after_a_restart(
    artifact: Artifact, tmp_path: Path, postgresql: Postgresql
) -> None:
    settings = settings_of(postgresql.url(postgresql.new_database()))
    heads = []
    for version in (1, 2):
        with opened_server(artifact, tmp_path, Clock(), ROUNDS, settings) as server:
            one_round(server)
            assert server.status().version == version
            heads.append(server.status().heads)
    assert not (tmp_path / "state.sqlite").exists()
    blobs, before = tmp_path / "blobs", artifact.folder / "heads.safetensors"
    for version, digest in enumerate(heads):
        counted = [Counted(number, version) for number in range(2)]
        expected = merged_heads(artifact, before, counted, version, most=2)
        assert (blobs / digest).read_bytes() == expected, "not what SQLite would have made"
        before = blobs / digest


@pytest.mark.parametrize("kill", [False, True])
def test_it_goes_away_and_comes_back(
    artifact: Artifact, tmp_path: Path, away: Postgresql, kill: bool
) -> None:
    settings = settings_of(away.url(away.new_database()))
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, settings) as server:
        one_round(server)
        offers = [ask(server, f"device-{number:03}") for number in range(2)]
        updates = [device_update(artifact, offer) for offer in offers]
        send(server, updates[0], offers[0].task)

        away.stop(kill=kill)
        for _ in range(3):
            with pytest.raises(Refusal) as caught:
                send(server, updates[1], offers[1].task)
            assert caught.value.reason is Reason.STORAGE
            assert caught.value.retry_after_seconds
        with pytest.raises(StorageError, match="cannot read the database"):
            server.versions()
        assert server.status().version == 1, "what needs no store is still answered"

        away.start()
        assert send(server, updates[0], offers[0].task).status == "already_have_it"
        assert send(server, updates[1], offers[1].task).status == "accepted"
        wait_for(server, 2)
        one_round(server)


@dataclass
class Device:
    """Takes part again and again, and sends each update until it is acknowledged."""

    server: Coordinator
    name: str
    promised: dict[str, str] = field(default_factory=dict)
    refused: set[Reason] = field(default_factory=set)

    def run(self, ending: threading.Event) -> None:
        while not ending.wait(0.005):
            offer = self.persist(lambda: ask(self.server, self.name), ending)
            if not isinstance(offer, TaskOffer):
                continue
            content = device_update(self.server.artifact, offer)
            receipt = self.persist(partial(send, self.server, content, offer.task), ending)
            if receipt is not None:
                self.promised[receipt.task] = receipt.sha256

    def persist(self, request: Callable[[], Answer], ending: threading.Event) -> Answer | None:
        while not ending.wait(0.005):
            try:
                return request()
            except Refusal as refusal:
                self.refused.add(refusal.reason)
                if refusal.reason is not Reason.STORAGE:
                    return None
        return None


@pytest.mark.slow
def test_nothing_that_was_acknowledged_is_lost_when_it_is_killed_while_devices_send(
    artifact: Artifact, tmp_path: Path, away: Postgresql
) -> None:
    url = away.url(away.new_database())
    rounds = RoundSettings(local=LocalSettings(local_steps=1), goal=4, over_selection=1)
    ending = threading.Event()
    with opened_server(artifact, tmp_path, Clock(), rounds, settings_of(url)) as server:
        devices = [Device(server, f"device-{number:03}") for number in range(4)]
        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(device.run, ending) for device in devices]
            for _ in range(3):
                version = server.status().version
                wait_until(lambda before=version: server.status().version > before + 1)
                away.stop(kill=True)
                time.sleep(0.1)
                away.start()
            wait_for(server, server.status().version + 1)
            ending.set()
        for each in running:
            each.result()
    # A round may have been closed by the other devices after an answer was lost.
    assert set().union(*(each.refused for each in devices)) <= {Reason.STORAGE, Reason.ROUND_OVER}
    promised = {task: digest for each in devices for task, digest in each.promised.items()}
    assert len(promised) >= 4 * 6
    store = PostgresqlStore(url)
    try:
        with store.reading() as transaction:
            for task, digest in promised.items():
                row = transaction.task(task)
                assert row is not None
                assert row.update is not None
                assert row.update.sha256 == digest
                assert row.state in {TaskState.MERGED, TaskState.ACCEPTED}
            for before, version in pairwise(transaction.versions()):
                assert version.attempt is not None
                rows = transaction.tasks(version.attempt)
                merged = [Counted(row.number, row.version) for row in rows if row.update]
                assert len(merged) == version.updates == 4
                blobs = tmp_path / "blobs"
                if not before.deleted and not version.deleted:
                    expected = merged_heads(
                        artifact, blobs / before.heads, merged, before.version, most=4
                    )
                    assert (blobs / version.heads).read_bytes() == expected
    finally:
        store.close()


def test_a_commit_whose_end_nobody_saw_is_not_trusted(
    artifact: Artifact, tmp_path: Path, postgresql: Postgresql
) -> None:
    """The answer is lost, a look at once shows what was before, and then the database commits it."""
    settings = settings_of(postgresql.url(postgresql.new_database()))
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, settings) as server:
        offers = [ask(server, f"device-{number:03}") for number in range(2)]
        before = copy.deepcopy(server._view)
        send(server, device_update(artifact, offers[0]), offers[0].task)
        server._latest.view = before
        send(server, device_update(artifact, offers[1]), offers[1].task)
        wait_for(server, 1)
        assert server.versions()[0].updates == 2


def test_two_runs_can_have_a_schema_each(
    artifact: Artifact, tmp_path: Path, postgresql: Postgresql
) -> None:
    name = postgresql.new_database()
    for each in ("first", "second"):
        postgresql.execute(f"CREATE SCHEMA {each}", name)
        url = postgresql.url(name) + f"&options=-csearch_path%3D{each}"
        folder = tmp_path / each
        with opened_server(artifact, folder, Clock(), ROUNDS, settings_of(url)) as server:
            one_round(server)
            assert server.status().version == 1


def test_a_backup_of_both_can_be_restored(
    artifact: Artifact, tmp_path: Path, postgresql: Postgresql
) -> None:
    """As docs/server.md says."""
    url, state, dump = postgresql.url(postgresql.new_database()), tmp_path / "state", tmp_path / "b"
    binaries = postgresql_binaries()
    assert binaries is not None
    with opened_server(artifact, state, Clock(), ROUNDS, settings_of(url)) as server:
        one_round(server)
        offers = [ask(server, f"device-{number:03}") for number in range(2)]
        send(server, device_update(artifact, offers[0]), offers[0].task)
    command = [binaries / "pg_dump", "--format=custom", f"--file={dump}", url]
    subprocess.run(command, check=True, timeout=60)
    shutil.copytree(state, tmp_path / "backup")

    with opened_server(artifact, state, Clock(), ROUNDS, settings_of(url)) as server:
        send(server, device_update(artifact, offers[1]), offers[1].task)
        wait_for(server, 2)
        one_round(server)

    command = [binaries / "pg_restore", "--clean", "--if-exists", f"--dbname={url}", dump]
    subprocess.run(command, check=True, timeout=60)
    shutil.rmtree(state)
    shutil.copytree(tmp_path / "backup", state)
    with opened_server(artifact, state, Clock(), ROUNDS, settings_of(url)) as server:
        assert (server.status().version, server.status().accepted) == (1, 1)
        send(server, device_update(artifact, offers[1]), offers[1].task)
        wait_for(server, 2)
        one_round(server)


def test_the_command_serves_from_it_and_shows_no_password(
    artifact: Artifact, tmp_path: Path, postgresql: Postgresql
) -> None:
    address = tmp_path / "address"
    address.write_text(postgresql.tcp_url(postgresql.new_database(), PASSWORD))
    command = [sys.executable, "-m", "ravan_edge.cli.main", "serve", str(artifact.folder)]
    command += ["--state", str(tmp_path / "state"), "--port", "0"]
    command += ["--database-file", str(address)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"listening on http://127.0.0.1:")
        shown = Path(f"/proc/{process.pid}/cmdline")
        if shown.exists():
            assert PASSWORD.encode() not in shown.read_bytes()
    finally:
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()
    assert PASSWORD.encode() not in out + errors
    assert not (tmp_path / "state" / "state.sqlite").exists()


def test_a_wrong_password_ends_the_command_with_9(
    artifact: Artifact, tmp_path: Path, postgresql: Postgresql
) -> None:
    address = tmp_path / "address"
    address.write_text(postgresql.tcp_url("postgres", "wrong-secret"))
    command = [sys.executable, "-m", "ravan_edge.cli.main", "serve", str(artifact.folder)]
    command += ["--state", str(tmp_path / "state"), "--database-file", str(address)]
    ended = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 9, ended.stderr.decode()
    assert b"password authentication failed" in ended.stderr
    assert b"wrong-secret" not in ended.stdout + ended.stderr
    assert b"Traceback" not in ended.stderr
