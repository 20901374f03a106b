"""Servers that run as users start them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ravan_edge.artifact import open_artifact
from ravan_edge.device import ServerConnection
from ravan_edge.protocol import CheckIn, TaskOffer
from tests.cli.calls import Call
from tests.server.server_kit import device_update, wait_until

RAVAN = [sys.executable, "-W", "error", "-m", "ravan_edge.cli.main"]


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        url: Its address, as it printed it.
        process: To end it.
        log: What it writes to stderr.
    """

    url: str
    process: subprocess.Popen[str]
    log: Path


@contextmanager
def serving(artifact: Path, state: Path, *words: object) -> Iterator[Server]:
    """A server on a free port, killed at the end if it still runs."""
    log = state.with_suffix(".log")
    command = [*RAVAN, "serve", str(artifact), "--state", str(state), "--port", "0"]
    with log.open("a") as complaints:
        process = subprocess.Popen(
            [*command, *map(str, words)], stdout=subprocess.PIPE, stderr=complaints, text=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(("listening on http://", "listening on https://")), log.read_text()
        yield Server(line.split()[-1], process, log)
    finally:
        process.kill()
        process.communicate()


def serve(artifact: object, state: object, *words: object) -> Call:
    """A server that cannot start, and ends by itself."""
    command = [*RAVAN, "serve", str(artifact), "--state", str(state), "--port", "0"]
    command += map(str, words)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return Call(done.returncode, done.stdout, done.stderr)


def one_round(server: Server, artifact: Path, devices: int) -> None:
    """All devices of a round, and the merge."""
    opened = open_artifact(artifact)
    with ServerConnection(server.url) as connection:
        version = connection.status().version
        for number in range(devices):
            check_in = CheckIn(protocol=1, device=f"device-{number:03}", plans=("whole",))
            offer = connection.check_in(check_in)
            assert isinstance(offer, TaskOffer)
            connection.upload(offer.task, device_update(opened, offer))
        wait_until(lambda: connection.status().version > version)
