"""Servers on PostgreSQL and S3 are killed with SIGKILL again and again, and followed on another machine."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from ravan_edge.artifact import Artifact
from ravan_server.settings import ServerSettings
from ravan_server.store import PostgresqlStore, TaskState
from tests.server.remote_program import ROUNDS
from tests.server.server_kit import Clock, Counted, merged_heads, opened_server
from tests.services.postgresql import Postgresql
from tests.services.s3 import S3Server
from tests.tiny_artifact import make_tiny_artifact

VERSIONS = 6


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("kill") / "artifact")


def lines(marks: Path) -> list[str]:
    return marks.read_text().splitlines() if marks.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_any_moment(
    artifact: Artifact, tmp_path: Path, postgresql: Postgresql, s3: S3Server, seed: int
) -> None:
    moments = random.Random(seed)
    marks, name = tmp_path / "marks", s3.new_bucket()
    url, objects = postgresql.url(postgresql.new_database()), f"s3://{name}/run"
    kills = 0
    for number in range(30):
        said = len(lines(marks))
        command = [sys.executable, "-m", "tests.server.remote_program", str(artifact.folder)]
        command += [str(tmp_path / f"machine-{number}"), str(marks), str(VERSIONS)]
        process = subprocess.Popen([*command, url, objects, s3.endpoint])
        patience, wanted = time.monotonic() + 60, said + moments.randint(1, 6)
        while process.poll() is None and len(lines(marks)) < wanted:
            assert time.monotonic() < patience, "the server does nothing"
            time.sleep(0.0005)
        time.sleep(moments.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
    else:
        pytest.fail("30 processes did not reach the end")
    assert kills >= 3
    settings = ServerSettings(database=url, objects=objects, objects_endpoint=s3.endpoint)
    with opened_server(artifact, tmp_path / "last", Clock(), ROUNDS, settings) as server:
        blobs = [server.blob(each.heads) for each in reversed(server.versions())]
    check(artifact, PostgresqlStore(url), lines(marks), blobs)
    left = [path for path in (s3.folder / name).rglob("*.updates") if path.is_file()]
    assert not left, "what a killed process had put is deleted by the next"


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_two_that_serve_one_run(
    artifact: Artifact, tmp_path: Path, postgresql: Postgresql, s3: S3Server, seed: int
) -> None:
    """One of the two at a time, at any moment; it is followed while the other one goes on."""
    moments = random.Random(seed)
    marks, name = tmp_path / "marks", s3.new_bucket()
    url, objects = postgresql.url(postgresql.new_database()), f"s3://{name}/run"
    machines = iter(range(100))

    def started() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.server.remote_program", str(artifact.folder)]
        command += [str(tmp_path / f"machine-{next(machines)}"), str(marks), str(VERSIONS)]
        return subprocess.Popen([*command, url, objects, s3.endpoint, "shared"])

    processes = [started(), started()]
    kills = 0
    try:
        while all(process.poll() is None for process in processes):
            patience, wanted = time.monotonic() + 60, len(lines(marks)) + moments.randint(2, 6)
            while len(lines(marks)) < wanted and all(each.poll() is None for each in processes):
                assert time.monotonic() < patience, "the servers do nothing"
                time.sleep(0.0005)
            time.sleep(moments.random() * 0.03)
            number = moments.randrange(2)
            if processes[number].poll() is None:
                processes[number].send_signal(signal.SIGKILL)
                kills += processes[number].wait() != 0
                processes[number] = started()
        for process in processes:
            assert process.wait(60) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert kills >= 2
    settings = ServerSettings(database=url, objects=objects, objects_endpoint=s3.endpoint)
    with opened_server(artifact, tmp_path / "last", Clock(), ROUNDS, settings) as server:
        blobs = [server.blob(each.heads) for each in reversed(server.versions())]
    check(artifact, PostgresqlStore(url), lines(marks), blobs)
    left = [path for path in (s3.folder / name).rglob("*.updates") if path.is_file()]
    assert not left


def check(
    artifact: Artifact, store: PostgresqlStore, promised: list[str], blobs: list[Path]
) -> None:
    """Nothing that was promised is lost or counted twice; each version is what its updates make."""
    try:
        with store.reading() as transaction:
            versions = transaction.versions()
            assert len(versions) == VERSIONS + 1
            for line in promised:
                task, version = line.split()
                row = transaction.task(task)
                assert row is not None
                assert row.state is TaskState.MERGED
                assert row.version == int(version)
            merged = 0
            for before, version in pairwise(versions):
                assert version.attempt is not None
                rows = [row for row in transaction.tasks(version.attempt) if row.update]
                assert len({row.device for row in rows}) == len(rows) == version.updates == 3
                counted = [Counted(row.number, row.version) for row in rows]
                found = blobs[version.version].read_bytes()
                path = blobs[before.version]
                assert found == merged_heads(artifact, path, counted, before.version, most=3)
                merged += len(rows)
            assert len(set(promised)) <= merged
    finally:
        store.close()
