"""What `bench.server` runs: a real `ravan serve`, the load, and the floor, each a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.server_load import HOST, Updates, device_key, device_name
from ravan_edge.artifact import Artifact, open_artifact
from ravan_edge.memory import PeakSampler
from ravan_edge.methods import method_for
from ravan_edge.protocol import CheckIn, InviteDevices, UpdateInfo, decode_update
from ravan_server.operations import CheckedUpdate
from ravan_server.serving import open_coordinator
from ravan_server.settings import RoundSettings, ServerSettings

ROOT = Path(__file__).resolve().parent.parent
CONNECTIONS = 64
GROUP = 32
WAIT_SECONDS = 60.0


def resident_mb(pid: int) -> float:
    """All of a process's pages in memory, files it has mapped too."""
    with PeakSampler([pid]) as sampler:
        peak = sampler.peak(pid)
    return (peak.anonymous_bytes + peak.mapped_bytes) / 1e6


class ServerProcess:
    """A `ravan serve` that answers, until the block ends.

    Attributes:
        pid: The process.
        port: Where it listens.
        start_seconds: From before the process was made until /healthz was answered.
    """

    def __init__(self, artifact: Path, state: Path, **options: float | str) -> None:
        words = [sys.executable, "-m", "ravan_edge.cli.main", "serve", str(artifact)]
        words += ["--state", str(state), "--port", "0"]
        for name, value in options.items():
            words.append(f"--{name.replace('_', '-')}")
            words += [] if isinstance(value, bool) else [str(value)]
        self._words = words
        self._said = state.with_name(f"{state.name}.log")

    def __enter__(self) -> Self:
        began = time.perf_counter()
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                self._words, stdout=subprocess.PIPE, stderr=said, cwd=ROOT
            )
        assert self._process.stdout is not None
        self.pid = self._process.pid
        line = self._process.stdout.readline().decode().strip()
        if not line:
            raise SystemExit(self._said.read_text())
        self.port = int(line.rsplit(":", 1)[1])
        self.get("/healthz")
        self.start_seconds = time.perf_counter() - began
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def get(self, path: str) -> dict[str, Any]:
        """A JSON document of the server."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=WAIT_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", path)
            document: dict[str, Any] = json.loads(connection.getresponse().read())
        return document


def load(**job: object) -> dict[str, Any]:
    """What the load of ``bench.server_load`` saw."""
    return _child("bench.server_load", job)


def uploads_a_second(artifact: Artifact, state: Path, count: int, **where: str) -> float:
    """So many uploads to a server that keeps its state there; nothing of it is left."""
    settings: dict[str, Any] = {"goal": count, "over_selection": 1, "deadline_seconds": 3600}
    with ServerProcess(artifact.folder, state, **settings, **where) as server:
        common = {"port": server.port, "connections": CONNECTIONS}
        asked = {"first": 0, "count": count, "rate": None, "artifact": artifact.digest}
        offered = load(kind="check-ins", **asked, **common)
        assert len(offered["tasks"]) == count, offered
        sent = load(kind="uploads", folder=str(artifact.folder), tasks=offered["tasks"], **common)
    assert sent["statuses"] == {"accepted": count}, sent["statuses"]
    shutil.rmtree(state)
    return float(count / sent["seconds"])


def floor(folder: Path, uploads: int) -> float:
    """Uploads a second of one bare process; see :func:`_floor`."""
    job = {"folder": str(folder), "uploads": uploads}
    return float(_child("bench.server_sides", job)["per_second"])


def _child(module: str, job: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _floor(folder: str, uploads: int) -> float:
    """The least that a durable, verified upload costs: no network, no store, no task.

    Each body comes out of memory, is hashed, parsed and appended; one fsync for 32 of them.
    """
    artifact = open_artifact(Path(folder))
    method = method_for(artifact.manifest)
    updates = Updates(folder)
    bodies = [updates.body(f"{number:022d}", 0) for number in range(GROUP)]
    with tempfile.NamedTemporaryFile(buffering=0) as file:
        began = time.perf_counter()
        for number in range(uploads):
            body = bodies[number % GROUP]
            hashlib.sha256(body).hexdigest()
            decode_update(body, artifact.manifest, method, artifact.digest)
            file.write(body)
            if (number + 1) % GROUP == 0:
                os.fsync(file.fileno())
        os.fsync(file.fileno())
        return uploads / (time.perf_counter() - began)


def make_artifact(folder: Path, *, rank: int, heads: int) -> Artifact:
    """An artifact of the tests: its updates have 4 * heads * rank^2 bytes and a little more."""
    sys.path.insert(0, str(ROOT))  # it belongs to the tests
    from tests.tiny_artifact import TinySizes, make_tiny_artifact

    return make_tiny_artifact(folder, sizes=TinySizes(width=32, heads=heads, rank=rank))


def make_enrolled(artifact: Artifact, state: Path, devices: int) -> None:
    """A state in which so many devices are enrolled; nobody took part yet."""
    state.mkdir()
    rounds = RoundSettings(goal=devices, over_selection=1.0, deadline_seconds=3600)
    coordinator = open_coordinator(artifact, state, rounds, ServerSettings())
    coordinator.start()
    token = coordinator.members.invite(InviteDevices(uses=devices)).token
    keys = (device_key(number).public_key().public_bytes_raw().hex() for number in range(devices))
    for promise in [coordinator.members.enrol(token, key) for key in keys]:
        promise.result()
    coordinator.stop()


def make_known(artifact: Artifact, state: Path, devices: int, after: RoundSettings) -> None:
    """A state in which so many devices took part in round 1, which is merged.

    Through the coordinator, without the network: a server with one round for all, then one with
    ``after``, which is how later rounds run.
    """
    state.mkdir()
    updates = Updates(str(artifact.folder))
    everybody = RoundSettings(goal=devices, over_selection=1.0)
    first = open_coordinator(artifact, state, everybody, ServerSettings())
    first.start()
    tasks = [
        first.check_in(CheckIn(protocol=1, device=device_name(number), plans=("whole",)))
        for number in range(devices)
    ]
    ids = [each.result().task for each in tasks]  # type: ignore[union-attr]
    first.stop()
    second = open_coordinator(artifact, state, after, ServerSettings())
    second.start()
    promises = []
    for task in ids:
        content = updates.body(task, 0)
        info = UpdateInfo(task, 0, artifact.digest, 64, 10)
        sha256 = hashlib.sha256(content).hexdigest()
        promises.append(second.accept(task, CheckedUpdate(info, content, sha256)))
    for promise in promises:
        promise.result()
    deadline = time.monotonic() + WAIT_SECONDS
    while second.status().version == 0:
        if time.monotonic() > deadline:
            raise SystemExit("round 1 was not merged")
        time.sleep(0.05)
    second.stop()


if __name__ == "__main__":
    _job = json.load(sys.stdin)
    json.dump({"per_second": _floor(_job["folder"], _job["uploads"])}, sys.stdout)
