"""Devices as a load: one process that sends prebuilt requests over raw sockets and reads little.

    python -m bench.server_load < job.json > answer.json

An HTTP client library in Python takes longer for a request than the server for its answer; this one
knows only what the server sends: a status line, a `content-length`, a body. `bench.server` starts it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ravan_edge.artifact import open_artifact
from ravan_edge.methods import method_for
from ravan_edge.protocol import UpdateInfo, encode_update
from ravan_edge.signing import device_of_key, sign_request

PLACEHOLDER = "T" * 22  # as long as a task's id
HOST = "127.0.0.1"
OK, BUSY = 200, 503
RETRY_SECONDS = 0.02

Job = dict[str, Any]
Answer = tuple[int, bytes]


def device_name(number: int) -> str:
    return f"device-{number:08d}"


class Updates:
    """Bodies of updates: the same numbers for every task, the header of its own."""

    def __init__(self, folder: str) -> None:
        self._artifact = open_artifact(Path(folder))
        self._method = method_for(self._artifact.manifest)
        self._vector = self._method.layout.pack(self._artifact.initial_heads())
        self._training = self._method.training(self._vector, None)
        generator = np.random.default_rng(0)
        self._difference = (0.01 * generator.standard_normal(self._vector.size)).astype(np.float32)
        self._difference[~self._mask] = 0
        self._templates: dict[int, tuple[bytes, bytes]] = {}

    @property
    def _mask(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        mask = self._training.mask
        return np.ones(self._vector.size, bool) if mask is None else mask

    def body(self, task: str, version: int) -> bytes:
        """The file of an update."""
        if version not in self._templates:
            info = UpdateInfo(PLACEHOLDER, version, self._artifact.digest, 64, 10)
            whole = encode_update(info, self._method, self._difference, self._training)
            before, after = whole.split(PLACEHOLDER.encode(), 1)
            self._templates = {version: (before, after)}
        before, after = self._templates[version]
        return b"".join((before, task.encode(), after))


class Connection(asyncio.Protocol):
    """One connection that is kept, one request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, port: int) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(cls, HOST, port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed before the answer"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = bytes(self._received).partition(b"\r\n\r\n")
        if not found or self._answer is None:
            return
        length = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r", 1)[0])
        if len(body) >= length:
            self._received.clear()
            self._answer.set_result((int(head[9:12]), body))

    async def ask(self, request: bytes) -> Answer:
        """Status and body."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@cache
def device_key(number: int) -> Ed25519PrivateKey:
    """The key of an enrolled device."""
    return Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))


def device_id(number: int, *, signed: bool) -> str:
    """What a device calls itself; an enrolled one by its key."""
    if not signed:
        return device_name(number)
    return device_of_key(device_key(number).public_key().public_bytes_raw())


def check_in_request(number: int, artifact: str, *, signed: bool = False) -> bytes:
    message = {
        "protocol": 1,
        "device": device_id(number, signed=signed),
        "plans": ["whole"],
        "artifacts": [artifact],
        "memory_limit_bytes": 500_000_000,
        "conditions": {"mains_power": True, "unmetered": True},
    }
    body, key = json.dumps(message).encode(), device_key(number) if signed else None
    return _request("POST", "/v1/check-in", body, "application/json", key)


def upload_request(task: str, body: bytes, key: Ed25519PrivateKey | None = None) -> bytes:
    return _request("PUT", f"/v1/tasks/{task}/update", body, "application/octet-stream", key)


def _request(
    method: str, path: str, body: bytes, media_type: str, key: Ed25519PrivateKey | None
) -> bytes:
    headers = {"host": HOST, "content-type": media_type, "content-length": str(len(body))}
    if key is not None:
        headers |= sign_request(key, method, path, body, time.time_ns() // 1_000_000)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


class Tally:
    """What was answered."""

    def __init__(self) -> None:
        self.tasks: list[dict[str, Any]] = []
        self.waits: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.latencies: list[float] = []

    def check_in(self, answer: Answer) -> dict[str, Any] | None:
        """Count the answer to a check-in; the task, if it is one."""
        status, body = answer
        if status != OK:
            self.refused[str(status)] += 1
            return None
        message: dict[str, Any] = json.loads(body)
        if message["answer"] == "task":
            kept = {name: message[name] for name in ("task", "device", "version")}
            self.tasks.append(kept)
            return kept
        self.waits[message["reason"]] += 1
        return None

    def as_dict(self, seconds: float) -> Job:
        return {
            "seconds": seconds,
            "tasks": self.tasks,
            "waits": dict(self.waits),
            "refused": dict(self.refused),
            "latencies": self.latencies,
        }


async def _closed_loop(
    port: int, connections: int, requests: Iterator[bytes], seen: Callable[[Answer], object]
) -> tuple[float, list[float]]:
    """Each connection sends its next request when the last was answered; seconds, latencies."""
    loop = asyncio.get_running_loop()
    open_ones = [await Connection.open(port) for _ in range(connections)]
    latencies: list[float] = []

    async def work(connection: Connection) -> None:
        for request in requests:
            began = loop.time()
            seen(await connection.ask(request))
            latencies.append(loop.time() - began)

    began = loop.time()
    await asyncio.gather(*map(work, open_ones))
    seconds = loop.time() - began
    for connection in open_ones:
        connection.close()
    return seconds, latencies


async def _open_loop(
    job: Job, requests: list[bytes], seen: Callable[[Answer], object]
) -> tuple[float, list[float]]:
    """Requests at a fixed rate, whatever becomes of the earlier ones; latency from the due moment."""
    loop = asyncio.get_running_loop()
    port: int = job["port"]
    idle = [await Connection.open(port) for _ in range(job["connections"])]
    latencies: list[float] = []
    failures: list[str] = []

    async def one(request: bytes, due: float) -> None:
        try:
            connection = idle.pop() if idle else await Connection.open(port)
            answer = await connection.ask(request)
        except OSError as error:
            failures.append(str(error))
            return
        latencies.append(loop.time() - due)
        seen(answer)
        if job["connections"]:
            idle.append(connection)
        else:
            connection.close()

    running: list[asyncio.Task[None]] = []
    began = loop.time() + 0.1
    for number, request in enumerate(requests):
        due = began + number / job["rate"]
        if due > loop.time():
            await asyncio.sleep(due - loop.time())
        running.append(loop.create_task(one(request, due)))
    await asyncio.gather(*running)
    seconds = loop.time() - began
    if failures:
        print(f"{len(failures)} connections failed, as {failures[0]}", file=sys.stderr)
    return seconds, latencies


async def check_ins(job: Job) -> Job:
    """Devices ``first`` to ``first + count`` check in once each.

    With ``rate`` they come at that rate, otherwise one after the other on each connection.
    ``connections`` 0: each device has a connection of its own. ``signed``: they are enrolled.
    """
    devices = range(job["first"], job["first"] + job["count"])
    signed = bool(job.get("signed"))
    requests = [check_in_request(each, job["artifact"], signed=signed) for each in devices]
    tally = Tally()
    if job["rate"] is None:
        seconds, tally.latencies = await _closed_loop(
            job["port"], job["connections"], iter(requests), tally.check_in
        )
    else:
        seconds, tally.latencies = await _open_loop(job, requests, tally.check_in)
    return tally.as_dict(seconds)


async def uploads(job: Job) -> Job:
    """Send the update of each of ``tasks``; ``signed``: of enrolled devices, in their order."""
    updates = Updates(job["folder"])
    statuses: Counter[str] = Counter()

    def seen(answer: Answer) -> None:
        accepted = answer[0] == OK and json.loads(answer[1])["status"] == "accepted"
        statuses["accepted" if accepted else str(answer[0])] += 1

    # Signing costs more than the server's answer may: it is done before the time begins to count.
    requests: Iterator[bytes] = (
        upload_request(
            each["task"],
            updates.body(each["task"], each["version"]),
            device_key(each["device"]) if job.get("signed") else None,
        )
        for each in job["tasks"]
    )
    if job.get("signed"):
        requests = iter(list(requests))
    seconds, latencies = await _closed_loop(job["port"], job["connections"], requests, seen)
    return {"seconds": seconds, "statuses": dict(statuses), "latencies": latencies}


async def rounds(job: Job) -> Job:
    """Devices that check in, upload and check in again, until ``count`` updates are acknowledged.

    With ``slow_every`` each so-manieth device needs ``slow_seconds`` for its task, the others none.
    """
    loop = asyncio.get_running_loop()
    updates = Updates(job["folder"])
    numbers = itertools.cycle(range(job["devices"]))
    accepted = 0
    slow_every: int = job.get("slow_every", 0)
    tally = Tally()

    async def work() -> None:
        nonlocal accepted
        connection = await Connection.open(job["port"])
        while accepted < job["count"]:
            request = check_in_request(next(numbers), job["artifact"])
            task = tally.check_in(await connection.ask(request))
            tally.tasks.clear()
            if task is None:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            body = updates.body(task["task"], task["version"])
            if slow_every and task["device"] % slow_every == 0:
                await asyncio.sleep(job["slow_seconds"])
            while True:
                status, _ = await connection.ask(upload_request(task["task"], body))
                if status == OK:
                    accepted += 1
                    break
                # The round was over, or a version is being made: the server closes the connection.
                connection.close()
                connection = await Connection.open(job["port"])
                if status != BUSY:
                    tally.refused[str(status)] += 1
                    break
                await asyncio.sleep(RETRY_SECONDS)
        connection.close()

    began = loop.time()
    await asyncio.gather(*(work() for _ in range(job["connections"])))
    return {"accepted": accepted, **tally.as_dict(loop.time() - began)}


JOBS: dict[str, Callable[[Job], Coroutine[Any, Any, Job]]] = {
    "check-ins": check_ins,
    "uploads": uploads,
    "rounds": rounds,
}


def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    job = json.load(sys.stdin)
    json.dump(uvloop.run(JOBS[job["kind"]](job)), sys.stdout)


if __name__ == "__main__":
    main()
