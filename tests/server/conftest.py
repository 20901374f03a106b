"""A tiny artifact, and servers of it in this process whose clock the test moves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from fastapi import FastAPI

from ravan_edge.artifact import Artifact
from ravan_edge.protocol import ServerStatus
from ravan_server.app import create_app
from ravan_server.coordinator import Coordinator
from ravan_server.serving import open_coordinator
from ravan_server.settings import RoundSettings, ServerSettings
from tests.server.asgi import Client
from tests.tiny_artifact import make_tiny_artifact

MOST_POLLS = 3000


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds


@dataclass(frozen=True)
class Served:
    """A server in this process."""

    artifact: Artifact
    state: Path
    clock: Clock
    coordinator: Coordinator
    app: FastAPI
    client: Client

    @property
    def status(self) -> ServerStatus:
        return ServerStatus.model_validate_json(self.client.get("/v1/status").body)

    def stored(self) -> tuple[int, int]:
        """Updates that the store counts, and bytes in the update log."""
        log = self.state / "updates"
        return self.status.accepted, sum(path.stat().st_size for path in log.iterdir())

    def until(self, condition: Callable[[ServerStatus], bool]) -> ServerStatus:
        """Wait for what the server does by itself."""
        for _ in range(MOST_POLLS):
            status = self.status
            if condition(status):
                return status
            time.sleep(0.01)
        raise AssertionError(f"it never came: {status}")


Serve = Callable[..., Served]


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("served") / "artifact")


def open_served(
    stack: ExitStack,
    artifact: Artifact,
    state: Path,
    *,
    settings: ServerSettings | None = None,
    uploads_bytes: int = 1 << 20,
    **rounds: float,
) -> Served:
    """A server that ends with the stack."""
    state.mkdir()
    clock = Clock()
    coordinator = open_coordinator(
        artifact, state, RoundSettings(**rounds), settings or ServerSettings(), clock=clock
    )
    coordinator.start()
    stack.callback(coordinator.stop)
    app = create_app(coordinator, uploads_bytes)
    client = stack.enter_context(Client(app))
    return Served(artifact, state, clock, coordinator, app, client)


@pytest.fixture
def serve(artifact: Artifact, tmp_path: Path) -> Iterator[Serve]:
    """``serve(goal=3, ..., settings=ServerSettings(...))``: a server that ends with the test."""
    with ExitStack() as stack:
        yield partial(open_served, stack, artifact, tmp_path / "state")


@pytest.fixture(scope="module")
def shared(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests of a file: each takes devices of its own."""
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("shared")
        yield open_served(stack, artifact, folder / "state", goal=1_000_000)


@pytest.fixture
def served(serve: Serve) -> Served:
    """A server of one large round, which no test fills."""
    return serve(goal=100_000)
