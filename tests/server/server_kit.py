"""What tests of the server share: a state folder with a clock of its own, devices that make updates."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvicorn

from ravan_edge.artifact import Artifact, Role, heads_metadata, load_heads, tensors_to_bytes
from ravan_edge.merge import Weight
from ravan_edge.methods import Vector, method_for
from ravan_edge.protocol import (
    CheckIn,
    ComeBack,
    Receipt,
    TaskOffer,
    UpdateInfo,
    encode_update,
)
from ravan_edge.training import LocalSettings
from ravan_server.access.login import Login
from ravan_server.app import create_app
from ravan_server.coordinator import Coordinator
from ravan_server.operations import CheckedUpdate
from ravan_server.serving import open_coordinator
from ravan_server.settings import RoundSettings, ServerSettings

__all__ = [
    "Clock",
    "Counted",
    "ask",
    "device_difference",
    "device_update",
    "expected_heads",
    "listening",
    "merged_heads",
    "opened_server",
    "send",
    "wait_for",
    "wait_until",
]


@dataclass
class Clock:
    """A clock that goes on only when it is told to."""

    now: float = 1_000_000.0
    stopped: bool = field(default=True, init=False)

    def __call__(self) -> float:
        return self.now


@contextmanager
def opened_server(
    artifact: Artifact,
    state: Path,
    clock: Clock,
    rounds: RoundSettings | None = None,
    settings: ServerSettings | None = None,
    evaluation: Sequence[str] = (),
) -> Iterator[Coordinator]:
    """A coordinator on a state folder, running; as ``serve`` opens it, but for the clock."""
    state.mkdir(exist_ok=True)
    coordinator = open_coordinator(
        artifact,
        state,
        rounds or RoundSettings(local=LocalSettings(local_steps=1)),
        settings or ServerSettings(),
        evaluation=evaluation,
        clock=clock,
        retry_seconds=0.01,
    )
    coordinator.start()
    try:
        yield coordinator
    finally:
        coordinator.stop()


@contextmanager
def listening(coordinator: Coordinator, login: Login | None = None) -> Iterator[str]:
    """The same over HTTP, on a free port of this machine; its address."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_app(coordinator, login=login),
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        taken.close()


def ask(
    coordinator: Coordinator, device: str, plans: tuple[str, ...] = ("whole",)
) -> TaskOffer | ComeBack:
    """A check-in and its answer."""
    found = coordinator.check_in(CheckIn(protocol=1, device=device, plans=plans))
    return found if isinstance(found, ComeBack) else coordinator.answer(found.result(30), device)


def device_difference(artifact: Artifact, number: int, version: int) -> Vector:
    """What device ``number`` finds from ``version`` on: float32 [parameters], 0 where nothing trains."""
    method = method_for(artifact.manifest)
    generator = np.random.default_rng([number, version])
    drawn = generator.normal(scale=0.1, size=method.layout.size).astype(np.float32)
    return np.where(method.layout.mask(Role.SCALE), np.float32(0), drawn)  # folded: not sent


def device_update(artifact: Artifact, offer: TaskOffer) -> bytes:
    """The update file of a task: a function of the device's number, the version and the task's id."""
    method = method_for(artifact.manifest)
    start = np.zeros(method.layout.size, np.float32)
    info = UpdateInfo(offer.task, offer.version, offer.artifact, examples=8, steps=1)
    difference = device_difference(artifact, offer.device, offer.version)
    return encode_update(info, method, difference, method.training(start, None))


def send(
    coordinator: Coordinator,
    content: bytes,
    task: str,
    on_promise: Callable[[], None] = lambda: None,
) -> Receipt:
    """Give an update to the coordinator and wait until it is durable.

    ``on_promise`` is called in the moment of the acknowledgement, before the writer goes on.
    """
    info = coordinator.reader.view(content).info
    checked = CheckedUpdate(info, content, hashlib.sha256(content).hexdigest())
    future = coordinator.accept(task, checked)
    # Set after it was queued, and no writer is that quick: a commit has to sync first.
    future.add_done_callback(lambda done: None if done.exception() else on_promise())
    return future.result(30)


@dataclass(frozen=True)
class Counted:
    """An update that is merged: whose it is, the version it started from, and its weight."""

    device: int
    version: int
    count: int = 1
    factor: int = 1 << 32

    @property
    def weight(self) -> Weight:
        """As the kit has it."""
        return Weight(self.count, self.factor)


def expected_heads(artifact: Artifact, before: Path, devices: list[int], version: int) -> bytes:
    """The heads file after ``version``, of at most 3 updates that all started from it."""
    return merged_heads(artifact, before, [Counted(number, version) for number in devices], version)


def merged_heads(
    artifact: Artifact, before: Path, updates: list[Counted], version: int, most: int = 3
) -> bytes:
    """The heads file after ``version``, bit by bit, from integers as Python has them.

    A slow twin of section 9 of docs/artifact.md: no numpy integer, no shared code but the file's writer.

    Args:
        artifact: Of the run.
        before: The heads file of ``version``.
        updates: That count.
        version: The latest.
        most: N, the most that their counts can add up to.
    """
    method = method_for(artifact.manifest)
    heads = method.layout.pack(load_heads(before, artifact.manifest, artifact.digest))
    differences = [device_difference(artifact, each.device, each.version) for each in updates]
    power = 62 - 6 - (most - 1).bit_length()
    counts = sum(each.count for each in updates)
    merged = heads.copy()
    for index in range(len(heads)):
        # Python's round() is half to even, and its integers do not end.
        total = sum(
            round(float(difference[index]) * each.count * each.factor * 2.0 ** (power - 32))
            for difference, each in zip(differences, updates, strict=True)
        )
        mean = float(np.float64(total)) * 2.0**-power / counts
        merged[index] = np.float32(float(heads[index]) + mean)
    metadata = heads_metadata(version + 1, artifact.digest)
    return tensors_to_bytes(method.layout.views(merged), metadata)


def wait_for(coordinator: Coordinator, version: int, seconds: float = 60) -> None:
    """Until a version is there."""
    wait_until(lambda: coordinator.status().version >= version, seconds)


def wait_until(there: Callable[[], bool], seconds: float = 60) -> None:
    """Until something is so. Fails after so many real seconds."""
    until = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.002)
