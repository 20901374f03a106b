"""Starting and ending a server process."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from ravan_edge.artifact import Artifact
from ravan_edge.errors import StorageError
from ravan_edge.files import storage_errors, sync_folder
from ravan_edge.folder_lock import FolderLock, refuse_folder_of
from ravan_server.access.login import Login
from ravan_server.access.operator_token import operator_token
from ravan_server.access.replay import ReplayGuard
from ravan_server.app import create_app
from ravan_server.artifact_signature import require_signature
from ravan_server.blobs import (
    Blobs,
    Bucket,
    FolderBlobs,
    FolderUpdateLog,
    S3Blobs,
    S3UpdateLog,
    UpdateLog,
)
from ravan_server.coordinator import Coordinator
from ravan_server.events import Event, log_event
from ravan_server.http.connection import ConnectionLimits
from ravan_server.http.server import BACKLOG, http_server
from ravan_server.http.tls import tls_context
from ravan_server.open_files import open_files
from ravan_server.parts import Parts, steady_clock
from ravan_server.settings import DEFAULT_CONNECTIONS, RoundSettings, ServerSettings
from ravan_server.store import open_store

__all__ = [
    "BLOBS_NAME",
    "DATABASE_NAME",
    "SCRATCH_NAME",
    "UPDATES_NAME",
    "open_coordinator",
    "serve",
]

_log = logging.getLogger(__name__)

DATABASE_NAME = "state.sqlite"
UPDATES_NAME = "updates"
BLOBS_NAME = "blobs"
SCRATCH_NAME = "merging"
_OF_DEVICES = ("device.json", "device.key")
_QUEUES = 4
_OTHER_FILES = 256  # of this process: database, log, blobs that are sent, listening sockets
# The writer's thread gives the interpreter away at every call of SQLite and wants it back at once.
# Python's own 5 ms let the event loop keep it so long each time.
_SWITCH_SECONDS = 0.0005


def open_coordinator(
    artifact: Artifact,
    state: Path,
    rounds: RoundSettings,
    settings: ServerSettings,
    *,
    evaluation: Sequence[str] = (),
    clock: Callable[[], float] | None = None,
    retry_seconds: float = 5.0,
) -> Coordinator:
    """The coordinator of a state folder, which is made or recovered.

    Args:
        artifact: What devices train.
        state: The folder; it exists.
        rounds: How rounds run.
        settings: Everything else.
        evaluation: Options of ``ravan eval`` that name the rows on which versions are scored.
        clock: Seconds since 1970, instead of the system's; for tests.
        retry_seconds: How long to wait after a merge that the disk did not let happen.

    Raises:
        UsageError: It belongs to another artifact.
        StorageError: It cannot be made or read.
    """
    store = open_store(
        state / DATABASE_NAME, settings.database, settings.database_file, shared=settings.shared
    )
    try:
        log, blobs = _open_blobs(state, settings)
        parts = Parts(
            artifact,
            store,
            log,
            blobs,
            rounds,
            settings,
            clock=clock or steady_clock(store.now),
            retry_seconds=retry_seconds,
            wall_clock=clock or time.time,
            scratch=state / SCRATCH_NAME,
        )
        return Coordinator(parts, evaluation)
    except BaseException:
        store.close()
        raise


def _open_blobs(state: Path, settings: ServerSettings) -> tuple[UpdateLog, Blobs]:
    """Where updates and heads are kept: in a bucket where one is named, else in the state folder."""
    if settings.objects is None:
        return FolderUpdateLog(state / UPDATES_NAME), FolderBlobs(state / BLOBS_NAME)
    bucket = Bucket(settings.objects, settings.objects_endpoint, settings.objects_region)
    return S3UpdateLog(bucket), S3Blobs(bucket, state / BLOBS_NAME)


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
        ArtifactError: Other machines can reach it, and the artifact is not signed.
        UsageError: Another process serves this folder, it belongs to another artifact or is a device's, or
            what should be a certificate is none.
        StorageError: The folder, the address or a file cannot be used.
    """
    refuse_folder_of("device", state, _OF_DEVICES, option="--state")
    tls = tls_context(settings)
    if settings.exposed:
        require_signature(artifact)
    with storage_errors(state, "make the state folder"):
        # Only for its owner: it holds updates, and the operators' token.
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(state.resolve().parent)
    with FolderLock(state, what="state", option="--state"):
        listening = _listen(settings)
        sys.setswitchinterval(_SWITCH_SECONDS)
        limits = _limits(settings)
        coordinator = open_coordinator(artifact, state, rounds, settings, evaluation=evaluation)
        coordinator.start()
        try:
            app = create_app(
                coordinator,
                settings.uploads_in_memory * 1_000_000,
                login=_login(coordinator, state, settings),
                local_only=not settings.exposed,
                behind_proxy=settings.behind_proxy,
            )
            server = http_server(app, limits, tls, coordinator.meters)
            host, port = listening[0].getsockname()[:2]

            # uvicorn ends on a signal and then raises it again; for a server that is a normal end.
            # One that comes before uvicorn listens for it ends the server as well.
            def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
                coordinator.readiness.end()
                server.should_exit = True

            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, end)
            scheme = "http" if tls is None else "https"
            address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
            text = "listening on %(address)s"
            log_event(_log, logging.INFO, Event.LISTENING, text, address=address)
            on_listening(address)
            gc.collect()
            gc.freeze()  # what is there now stays: a search for garbage need not look at it
            server.run(sockets=listening)
        finally:
            coordinator.stop()
            log_event(_log, logging.INFO, Event.ENDED, "the server has ended")


def _login(coordinator: Coordinator, state: Path, settings: ServerSettings) -> Login | None:
    """What decides who may ask for what; None: only this machine can ask.

    Raises:
        UsageError: The file of the operators' token holds none.
        StorageError: It cannot be read or made.
    """
    if not settings.login:
        return None
    coordinator.members.keyring.load()
    return Login(
        coordinator.members.keyring,
        operator_token(state, settings.operator_token_file),
        ReplayGuard(coordinator.now()),
        settings.requests_per_minute,
    )


def _limits(settings: ServerSettings) -> ConnectionLimits:
    """Of connections, as many as the system lets this process have."""
    most = settings.connections or DEFAULT_CONNECTIONS
    allowed = open_files(most + _OTHER_FILES)
    if allowed is not None and most > allowed - _OTHER_FILES:
        most = max(1, allowed - _OTHER_FILES)
        if settings.connections is not None:  # the default is what fits
            log_event(
                _log,
                logging.WARNING,
                Event.FEW_OPEN_FILES,
                "this process may have %(open_files)d open files: at most %(connections)d connections, "
                "not %(wanted)d",
                open_files=allowed,
                connections=most,
                wanted=settings.connections,
            )
    # Of a proxy all connections come from one address.
    share = None if settings.behind_proxy else settings.connections_per_address
    return ConnectionLimits(connections=most, per_address=share)


def _listen(settings: ServerSettings) -> list[socket.socket]:
    """Sockets that listen on one address: on Linux several, since each has a queue of its own.

    A queue takes at most ``net.core.somaxconn`` connections, usually 4,096. Of a crowd that comes at
    once the others would be turned away, and try again after 1, 3, 7 and 15 seconds.
    """
    host, several = settings.host, sys.platform == "linux"
    listening: list[socket.socket] = []
    try:
        # Alone first: who shares an address is not told that another server has it already.
        first = _bind(host, settings.port, shared=False)
        port = first.getsockname()[1]
        if not several:
            listening.append(first)
        else:
            first.close()
            listening.extend(_bind(host, port, shared=True) for _ in range(_QUEUES))
        for each in listening:
            each.listen(BACKLOG)
    except OSError as error:
        for each in listening:
            each.close()
        raise StorageError(
            f"cannot listen there: {error.strerror or error}",
            where=f"{host}:{settings.port}",
            hint="choose another --port, or --port 0 for any free one",
        ) from error
    return listening


def _bind(host: str, port: int, *, shared: bool) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
