"""Starting and ending a server process."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from ravan_edge.artifact import Artifact
from ravan_edge.errors import StorageError
from ravan_edge.files import storage_errors, sync_folder
from ravan_edge.folder_lock import FolderLock
from ravan_server.app import create_app
from ravan_server.blobs import FolderBlobs, FolderUpdateLog
from ravan_server.coordinator import Coordinator
from ravan_server.parts import Parts
from ravan_server.settings import RoundSettings, ServerSettings
from ravan_server.store import SqlStore

__all__ = ["BLOBS_NAME", "DATABASE_NAME", "UPDATES_NAME", "open_coordinator", "serve"]

DATABASE_NAME = "state.sqlite"
UPDATES_NAME = "updates"
BLOBS_NAME = "blobs"
_BACKLOG = 2048
_GRACE_SECONDS = 10


def open_coordinator(
    artifact: Artifact,
    state: Path,
    rounds: RoundSettings,
    settings: ServerSettings,
    *,
    evaluation: Sequence[str] = (),
    clock: Callable[[], float] = time.time,
    retry_seconds: float = 5.0,
) -> Coordinator:
    """The coordinator of a state folder, which is made or recovered.

    Args:
        artifact: What devices train.
        state: The folder; it exists.
        rounds: How rounds run.
        settings: Everything else.
        evaluation: Options of ``ravan eval`` that name the rows on which versions are scored.
        clock: Seconds since 1970.
        retry_seconds: How long to wait after a merge that the disk did not let happen.

    Raises:
        UsageError: It belongs to another artifact.
        StorageError: It cannot be made or read.
    """
    store = SqlStore(state / DATABASE_NAME)
    try:
        log, blobs = FolderUpdateLog(state / UPDATES_NAME), FolderBlobs(state / BLOBS_NAME)
        parts = Parts(artifact, store, log, blobs, rounds, settings, clock, retry_seconds)
        return Coordinator(parts, evaluation)
    except BaseException:
        store.close()
        raise


def serve(
    artifact: Artifact,
    state: Path,
    rounds: RoundSettings,
    settings: ServerSettings,
    evaluation: Sequence[str],
    on_listening: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        artifact: What devices train.
        state: The state folder; made where it is missing.
        rounds: How rounds run.
        settings: Everything else.
        evaluation: Options of ``ravan eval`` that name the rows on which versions are scored.
        on_listening: Told the address once connections are taken.

    Raises:
        UsageError: Another process serves this folder, or it belongs to another artifact.
        StorageError: The folder or the address cannot be used.
    """
    with storage_errors(state, "make the state folder"):
        state.mkdir(parents=True, exist_ok=True)
        sync_folder(state.resolve().parent)
    with FolderLock(state, what="state", option="--state"):
        listening = _listen(settings)
        coordinator = open_coordinator(artifact, state, rounds, settings, evaluation=evaluation)
        coordinator.start()
        try:
            app = create_app(coordinator, settings.uploads_in_memory * 1_000_000)
            server = uvicorn.Server(
                uvicorn.Config(
                    app,
                    http="httptools",
                    loop="uvloop",
                    lifespan="off",
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    backlog=_BACKLOG,
                    timeout_graceful_shutdown=_GRACE_SECONDS,
                )
            )
            host, port = listening.getsockname()[:2]

            # uvicorn ends on a signal and then raises it again; for a server that is a normal end.
            # One that comes before uvicorn listens for it ends the server as well.
            def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
                server.should_exit = True

            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, end)
            on_listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")
            server.run(sockets=[listening])
        finally:
            coordinator.stop()


def _listen(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise StorageError(
            f"cannot listen there: {error.strerror or error}",
            where=f"{settings.host}:{settings.port}",
            hint="choose another --port, or --port 0 for any free one",
        ) from error
    return listening
