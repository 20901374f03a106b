"""A server on PostgreSQL and S3, and its devices, in a process that a test kills, with what it promised."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from ravan_edge.artifact import open_artifact
from ravan_edge.protocol import Refusal, TaskOffer
from ravan_edge.training import LocalSettings
from ravan_server.coordinator import Coordinator
from ravan_server.settings import RoundSettings, ServerSettings
from tests.server.server_kit import Clock, ask, device_update, opened_server, send, wait_until

__all__ = ["ROUNDS"]

ROUNDS = RoundSettings(local=LocalSettings(local_steps=1), goal=3, over_selection=1)


def main(artifact: Path, state: Path, marks: Path, versions: int, settings: ServerSettings) -> None:
    """Until there are so many versions."""
    descriptor = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    with opened_server(open_artifact(artifact), state, Clock(), ROUNDS, settings) as server:
        while server.status().version < versions:
            for number in range(3):
                with suppress(Refusal):  # the others closed the round
                    take_part(server, f"device-{number:03}", descriptor)
            wait_until(lambda: server.status().state != "merging", 10)


def take_part(server: Coordinator, name: str, descriptor: int) -> None:
    """Send an update, and write down what is promised in the moment it is."""
    offer = ask(server, name)
    if isinstance(offer, TaskOffer):
        content = device_update(server.artifact, offer)
        said = f"{offer.task} {offer.version}\n".encode()
        send(server, content, offer.task, lambda: os.write(descriptor, said) and None)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        Path(sys.argv[3]),
        int(sys.argv[4]),
        ServerSettings(
            database=sys.argv[5],
            objects=sys.argv[6],
            objects_endpoint=sys.argv[7],
            shared=sys.argv[8:] == ["shared"],
            keep_versions=99,
        ),
    )
