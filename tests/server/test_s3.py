"""A server whose updates and heads are in an S3-compatible store: its address, its keys, and its faults."""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ravan_edge.artifact import Artifact
from ravan_edge.errors import MissingExtraError, StorageError, UsageError
from ravan_edge.protocol import Reason, Refusal
from ravan_edge.training import LocalSettings
from ravan_server.app import create_app
from ravan_server.blobs import Bucket, S3Blobs
from ravan_server.settings import RoundSettings, ServerSettings
from tests.server.asgi import Client
from tests.server.server_kit import (
    Clock,
    Counted,
    ask,
    device_update,
    merged_heads,
    opened_server,
    send,
    wait_for,
)
from tests.server.steps import one_round
from tests.services.postgresql import Postgresql
from tests.services.s3 import ACCESS_KEY, SECRET_KEY, S3Server, missing_s3, s3_server
from tests.tiny_artifact import make_tiny_artifact

ROUNDS = RoundSettings(local=LocalSettings(local_steps=1), goal=2, over_selection=1)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("s3") / "artifact")


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """One that a test may stop; requests are given up soon."""
    missing = missing_s3()
    if missing is not None:
        pytest.skip(missing)
    monkeypatch.setattr("ravan_server.blobs.bucket._RETRIES", {"max_retries": 1})
    folder = tmp_path / "buckets"
    folder.mkdir()
    with s3_server(folder) as server:
        yield server


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


def settings_of(server: S3Server, name: str, database: str | None = None) -> ServerSettings:
    return ServerSettings(
        objects=f"s3://{name}/run", objects_endpoint=server.endpoint, database=database
    )


def test_a_run_needs_no_folder_but_its_bucket_and_its_database(
    artifact: Artifact, tmp_path: Path, s3: S3Server, postgresql: Postgresql
) -> None:
    """Each time on another machine."""
    name = s3.new_bucket()
    settings = settings_of(s3, name, postgresql.url(postgresql.new_database()))
    before = artifact.folder / "heads.safetensors"
    for version in range(3):
        state = tmp_path / f"machine-{version}"
        with opened_server(artifact, state, Clock(), ROUNDS, settings) as server:
            if version == 2:
                offer = ask(server, "device-009")
                send(server, device_update(artifact, offer), offer.task)
                break
            one_round(server)
            path = server.blob(server.status().heads)
        counted = [Counted(number, version) for number in range(2)]
        assert path.read_bytes() == merged_heads(artifact, before, counted, version, most=2)
        before = path
    with opened_server(artifact, tmp_path / "last", Clock(), ROUNDS, settings) as server:
        assert (server.status().version, server.status().accepted) == (2, 1)
        offer = ask(server, "device-000")
        send(server, device_update(artifact, offer), offer.task)
        wait_for(server, 3)
        with Client(create_app(server)) as client:
            for each in server.versions():
                answer = client.get(f"/v1/blobs/{each.heads}")
                assert answer.status == 200
                assert len(answer.body) == each.bytes
            assert client.get("/v1/blobs/" + "0" * 64).status == 404
    folder = s3.folder / name / "run"
    assert {path.name for path in folder.iterdir() if any(path.rglob("*")) or path.is_file()} == {
        "blobs",
        "run",
    }, "merged updates are deleted"


def test_it_goes_away_and_comes_back(
    artifact: Artifact, tmp_path: Path, away: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(away, away.new_bucket())
    with opened_server(artifact, tmp_path / "state", Clock(), ROUNDS, settings) as server:
        one_round(server)
        offers = [ask(server, f"device-{number:03}") for number in range(2)]
        updates = [device_update(artifact, offer) for offer in offers]
        send(server, updates[0], offers[0].task)
        away.stop()
        for _ in range(2):
            with pytest.raises(Refusal) as caught:
                send(server, updates[1], offers[1].task)
            assert caught.value.reason is Reason.STORAGE
            assert SECRET_KEY not in str(caught.value)
        assert server.status().accepted == 1
        away.start()
        assert send(server, updates[0], offers[0].task).status == "already_have_it"
        assert send(server, updates[1], offers[1].task).status == "accepted"
        wait_for(server, 2)
        heads = server.status().heads
        away.stop()
        assert server.blob(heads).is_file(), "what is at hand is served without it"
        away.start()
    assert SECRET_KEY not in caplog.text


def test_a_copy_that_was_lost_is_fetched_and_looked_at(tmp_path: Path, away: S3Server) -> None:
    name = away.new_bucket()
    bucket = Bucket(f"s3://{name}", away.endpoint)
    digest = S3Blobs(bucket, tmp_path / "first").put(b"heads")
    blobs = S3Blobs(bucket, tmp_path / "second")
    assert blobs.cached(digest) is None
    (away.folder / name / "blobs" / digest).write_bytes(b"other")
    with pytest.raises(StorageError, match="not what was stored"):
        blobs.path(digest)
    assert blobs.cached(digest) is None
    (away.folder / name / "blobs" / digest).write_bytes(b"heads")
    path = blobs.path(digest)
    assert path is not None
    assert path.read_bytes() == b"heads"
    shutil.rmtree(tmp_path / "second")
    (tmp_path / "second").mkdir()
    away.stop()
    with pytest.raises(StorageError, match="cannot read it"):
        blobs.path(digest)


def test_two_runs_never_share_a_prefix(artifact: Artifact, tmp_path: Path, s3: S3Server) -> None:
    settings = settings_of(s3, s3.new_bucket())
    with opened_server(artifact, tmp_path / "one", Clock(), ROUNDS, settings) as server:
        offer = ask(server, "device-000")
        send(server, device_update(artifact, offer), offer.task)
    clock = Clock()
    clock.now += 1
    for _ in range(2):  # and a start that was refused leaves nothing behind
        with (
            pytest.raises(UsageError, match="there is another run in it"),
            opened_server(artifact, tmp_path / "two", clock, ROUNDS, settings),
        ):
            pytest.fail("it was opened")
    with opened_server(artifact, tmp_path / "one", Clock(), ROUNDS, settings) as server:
        assert server.status().accepted == 1
        one_more = ask(server, "device-001")
        send(server, device_update(artifact, one_more), one_more.task)
        wait_for(server, 1)


@pytest.mark.parametrize(
    "address", ["", "bucket", "s3://", "s3://b", "s3://UPPER/x", "s3://abc/a//b", "s3://abc/../d"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="expected s3://bucket/prefix"):
        Bucket(address, "https://127.0.0.1:1")


def test_without_the_client_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ravan-edge\[s3\]'"):
        Bucket("s3://bucket")


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("127.0.0.1:9000", "no address of an S3-compatible store"),
        ("https://key:secret@host", "no address of an S3-compatible store"),
        ("https://host/?secret", "no address of an S3-compatible store"),
        ("http://store.example:9000", "anybody between could read along"),
    ],
)
def test_what_is_no_endpoint_is_refused(endpoint: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Bucket("s3://bucket", endpoint)
    assert "secret" not in str(caught.value)


class TestKeys:
    def test_none_are_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "nothing"))
        with pytest.raises(UsageError, match="there are no keys for it"):
            Bucket("s3://bucket", "https://127.0.0.1:1")

    @pytest.mark.parametrize("profile", ["default", "other"])
    def test_they_may_stand_in_the_usual_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: S3Server, profile: str
    ) -> None:
        path = tmp_path / "credentials"
        path.write_text(
            f"[{profile}]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\n"
        )
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
        if profile != "default":
            with pytest.raises(UsageError, match="no profile 'default'"):
                Bucket("s3://bucket", s3.endpoint)
            monkeypatch.setenv("AWS_PROFILE", profile)
        Bucket(f"s3://{s3.new_bucket()}", s3.endpoint).put("x", b"1")

    @pytest.mark.parametrize(
        "content", ["[default\n", "[default]\naws_access_key_id=a-secret\n", "\0"]
    )
    def test_a_file_without_them_is_shown_to_nobody(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
    ) -> None:
        path = tmp_path / "credentials"
        path.write_text(content)
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
        with pytest.raises(UsageError, match="there are no keys") as caught:
            Bucket("s3://bucket", "https://127.0.0.1:1")
        assert "a-secret" not in str(caught.value)

    def test_wrong_ones_are_told_without_showing_them(
        self, monkeypatch: pytest.MonkeyPatch, s3: S3Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
        with pytest.raises(StorageError, match="SignatureDoesNotMatch") as caught:
            Bucket(f"s3://{s3.new_bucket()}", s3.endpoint).put("x", b"1")
        for shown in (str(caught.value), caplog.text):
            assert "a-wrong-secret" not in shown
            assert ACCESS_KEY not in shown
            assert "AWS4-HMAC" not in shown

    def test_a_bucket_that_is_not_there(self, s3: S3Server) -> None:
        bucket = Bucket("s3://no-such-bucket", s3.endpoint)
        for action in (
            lambda: bucket.put("x", b"1"),
            lambda: bucket.read("x"),
            lambda: bucket.list("x"),
        ):
            with pytest.raises(StorageError, match="NoSuchBucket"):
                action()


def test_the_command_serves_from_it(artifact: Artifact, tmp_path: Path, s3: S3Server) -> None:
    command = [sys.executable, "-m", "ravan_edge.cli.main", "serve", str(artifact.folder)]
    command += ["--state", str(tmp_path / "state"), "--port", "0"]
    command += ["--objects", f"s3://{s3.new_bucket()}/a/b", "--objects-endpoint", s3.endpoint]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"listening on http://127.0.0.1:")
    finally:
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()
    assert SECRET_KEY.encode() not in out + errors
