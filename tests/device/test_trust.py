"""Which artifacts a device trains: a device that keeps to the rules of docs/artifact.md, section 11."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ravan_edge.artifact import Artifact
from ravan_edge.device import ArtifactTrust, Device, DeviceSettings
from ravan_edge.errors import ArtifactError, NetworkError, StorageError
from ravan_edge.protocol import DeviceFailure
from ravan_edge.signing import key_id, sign_artifact
from ravan_server.coordinator import Coordinator
from ravan_server.settings import ServerSettings
from tests.device.device_kit import ROUNDS, Killed, close_devices, events, make_device
from tests.server.server_kit import Clock, listening, opened_server
from tests.tiny_artifact import make_tiny_artifact

__all__ = ["close_devices"]

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number in (1, 2)]
IDS = [key_id(key.public_key()) for key in KEYS]
NOW = 1_800_000_000
DAY = 86_400


@dataclass(frozen=True)
class Artifacts:
    folder: Path

    def make(self, seed: int, sequence: int = 1, **more: Any) -> Artifact:
        """An artifact, signed; another seed is another artifact."""
        artifact = make_tiny_artifact(self.folder / f"{seed}-{sequence}-{len(more)}", seed=seed)
        values = {"key": 0, "name": "mails", "days": 10, "now": time.time()} | more
        key = values.pop("key")
        if key is not None:
            sign_artifact(artifact, KEYS[key], sequence=sequence, **values)
        return artifact


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    (tmp_path / "artifacts").mkdir()
    return Artifacts(tmp_path / "artifacts")


@contextmanager
def served(artifact: Artifact) -> Iterator[tuple[Coordinator, str]]:
    """A server that runs for as long as it is needed; its address."""
    state = artifact.folder.with_suffix(".state")
    settings = ServerSettings(rounds=9, seed=5)
    with (
        opened_server(artifact, state, Clock(), ROUNDS, settings) as coordinator,
        listening(coordinator) as url,
    ):
        yield coordinator, url


def device_of(folder: Path, url: str, rows: Path, trusted: int | None = None) -> Device:
    device = make_device(
        folder, url, rows, DeviceSettings(tasks=1, checkpoint_seconds=0, patience_seconds=0)
    )
    device._trust = ArtifactTrust(folder, None if trusted is None else IDS[trusted])
    return device


def run(artifact: Artifact, folder: Path, rows: Path, trusted: int | None = None) -> list[str]:
    """One task of a device; the digests of what it downloaded, in order."""
    fetched: list[str] = []
    with served(artifact) as (_, url):
        device = device_of(folder, url, rows, trusted)
        download = device.connection.download

        def counted(digest: str, path: Path, most_bytes: int) -> None:
            fetched.append(digest)
            download(digest, path, most_bytes)

        device.connection.download = counted  # type: ignore[method-assign]
        assert device.run().sent == 1
    return fetched


def refused(
    artifact: Artifact, folder: Path, rows: Path, says: str, trusted: int | None = None
) -> None:
    """A device that does not train it: the task is given back, nothing but a signature was asked for."""
    fetched: list[str] = []
    given: list[DeviceFailure] = []
    with served(artifact) as (coordinator, url):
        device = device_of(folder, url, rows, trusted)
        download, give_back = device.connection.download, device.connection.give_back

        def counted(digest: str, path: Path, most_bytes: int) -> None:
            fetched.append(digest)
            download(digest, path, most_bytes)

        def told(task: str, failure: DeviceFailure) -> None:
            given.append(failure)
            give_back(task, failure)

        device.connection.download = counted  # type: ignore[method-assign]
        device.connection.give_back = told  # type: ignore[method-assign]
        with pytest.raises(ArtifactError, match=says) as error:
            device.run()
        assert coordinator.status().training == 0, "its place is free again"
        signature = coordinator._signature
    assert error.value.exit_code == 3
    assert "artifact " + artifact.digest in str(error.value)
    assert set(fetched) <= {signature}
    assert given == [DeviceFailure(reason="other", detail="ArtifactError")]
    assert events(folder)[-2:] == ["task", "given back"]
    assert not (folder / "artifacts" / artifact.digest).exists()


def memory_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "trust.json").read_bytes()))


def test_the_signature_comes_before_all_else_and_only_once(
    artifacts: Artifacts, rows: Path, tmp_path: Path
) -> None:
    folder, artifact = tmp_path / "device", artifacts.make(0)
    with served(artifact) as (coordinator, _):
        signature = coordinator._signature
    fetched = run(artifact, folder, rows)
    assert fetched[:2] == [signature, artifact.digest]
    assert len(fetched) == len(set(fetched)) > 4
    assert memory_of(folder)["key"] == IDS[0]
    again = run(artifact, folder, rows)
    assert signature not in again
    assert artifact.digest not in again


def test_of_unsigned_artifacts_nothing_is_remembered(
    artifacts: Artifacts, rows: Path, tmp_path: Path
) -> None:
    run(artifacts.make(0, key=None), tmp_path / "device", rows)
    assert not (tmp_path / "device" / "trust.json").exists()
    refused(artifacts.make(0, 2, key=None), tmp_path / "other", rows, "not signed", trusted=0)


def test_after_the_first_key_neither_none_nor_another(
    artifacts: Artifacts, rows: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "device"
    run(artifacts.make(0), folder, rows)
    refused(artifacts.make(1, key=None), folder, rows, f"not signed, expected .* {IDS[0]}")
    refused(artifacts.make(1, key=1, sequence=9), folder, rows, f"by key {IDS[1]}, trusted is")
    other = artifacts.make(2, key=1, sequence=9)
    run(other, folder, rows, trusted=1)
    assert memory_of(folder)["key"] == IDS[1]


def test_numbers_and_time_are_kept_from_task_to_task(
    artifacts: Artifacts, rows: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "device"
    run(artifacts.make(0, 5), folder, rows)
    refused(artifacts.make(1, 4), folder, rows, "never goes back")
    refused(artifacts.make(1, 5), folder, rows, "two artifacts under one number")
    run(artifacts.make(1, 6), folder, rows)
    refused(artifacts.make(0, 5, days=11), folder, rows, "never goes back")
    past = artifacts.make(3, 7, now=time.time() - 20 * DAY)
    # The server has a clock of its own, and would not hand it out by the right time.
    refused(past, folder, rows, "counts no more")


def test_it_remembers_before_it_trains_also_when_it_is_killed(
    artifacts: Artifacts, rows: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "device"
    new, old = artifacts.make(1, 8), artifacts.make(0, 7)
    with served(new) as (_, url):
        device = device_of(folder, url, rows)

        def killed(*_: object) -> None:
            raise Killed

        device._cache.open = killed  # type: ignore[assignment,method-assign]
        with pytest.raises(Killed):
            device.run()
    assert memory_of(folder)["seen"][IDS[0]]["mails"] == {
        "sequence": 8,
        "artifact": new.digest,
    }
    refused(old, folder, rows, "never goes back")
    run(new, folder, rows)


def test_a_task_that_goes_on_is_checked_again(
    artifacts: Artifacts, rows: Path, tmp_path: Path
) -> None:
    folder, artifact = tmp_path / "device", artifacts.make(0)
    with served(artifact) as (_, url):
        device = device_of(folder, url, rows)

        def killed(*_: object) -> None:
            raise Killed

        device.on_step = killed
        with pytest.raises(Killed):
            device.run()
        again = device_of(folder, url, rows, trusted=1)
        with pytest.raises(ArtifactError, match="trusted is"):
            again.run()
    assert events(folder) == ["task", "given back"]


def test_a_signature_of_another_artifact_does_not_help_a_server(
    artifacts: Artifacts, rows: Path, tmp_path: Path
) -> None:
    """A server that lies: its tasks name a good signature, of something else."""
    good, bad = artifacts.make(0), artifacts.make(1, key=None)
    with served(bad) as (coordinator, url):
        content = (good.folder / "signature.json").read_bytes()
        coordinator._signature = coordinator._parts.blobs.put(content)
        with pytest.raises(ArtifactError, match=f"is of artifact {good.digest}, this is"):
            device_of(tmp_path / "device", url, rows, trusted=0).run()


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 65_536, b"[" * 60_000])
def test_a_signature_that_is_none_is_refused(
    artifacts: Artifacts, rows: Path, tmp_path: Path, content: bytes
) -> None:
    with served(artifacts.make(0, key=None)) as (coordinator, url):
        coordinator._signature = coordinator._parts.blobs.put(content)
        with pytest.raises(ArtifactError, match="the signature is refused"):
            device_of(tmp_path / "device", url, rows).run()


def test_a_signature_without_end_is_not_read(
    artifacts: Artifacts, rows: Path, tmp_path: Path
) -> None:
    with served(artifacts.make(0, key=None)) as (coordinator, url):
        coordinator._signature = coordinator._parts.blobs.put(b" " * 65_537)
        with pytest.raises(NetworkError, match="too long"):
            device_of(tmp_path / "device", url, rows).run()


def test_the_rest_of_another_download_does_no_harm(
    artifacts: Artifacts, rows: Path, tmp_path: Path
) -> None:
    folder, artifact = tmp_path / "device", artifacts.make(0)
    folder.mkdir()
    (folder / "signature.json.part").write_bytes(b"x" * 100)
    (folder / "signature.json").write_bytes(b"something else")
    assert run(artifact, folder, rows)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"key": "x"}',
        b'{"key": null, "more": 1}',
        b'{"latest_issued_at": -1}',
        b"\xff",
    ],
)
def test_a_damaged_memory_is_no_fresh_start(
    artifacts: Artifacts, rows: Path, tmp_path: Path, content: bytes
) -> None:
    folder = tmp_path / "device"
    folder.mkdir()
    (folder / "trust.json").write_bytes(content)
    with (
        served(artifacts.make(0)) as (_, url),
        pytest.raises(StorageError, match="damaged") as damaged,
    ):
        device_of(folder, url, rows).run()
    assert "trust.json" in str(damaged.value)
    assert damaged.value.exit_code == 9
