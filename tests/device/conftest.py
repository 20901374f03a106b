"""A server over real HTTP, and rows, for devices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ravan_edge.artifact import Artifact
from ravan_server.coordinator import Coordinator
from ravan_server.settings import ServerSettings
from tests.device.device_kit import ROUNDS, close_devices, write_rows
from tests.server.server_kit import Clock, listening, opened_server
from tests.tiny_artifact import make_tiny_artifact

__all__ = ["close_devices"]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("device") / "artifact")


@pytest.fixture
def server(artifact: Artifact, tmp_path: Path) -> Iterator[Coordinator]:
    settings = ServerSettings(rounds=2, seed=5)
    with opened_server(artifact, tmp_path / "server", Clock(), ROUNDS, settings) as coordinator:
        yield coordinator


@pytest.fixture
def url(server: Coordinator) -> Iterator[str]:
    with listening(server) as address:
        yield address


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.csv", seed=3)
