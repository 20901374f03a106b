"""One step of a run in a line: what tests of rounds ask of a coordinator, and look at afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravan_edge.merge import RoundMode, RoundRule, Weighting
from ravan_edge.protocol import ComeBack, Refusal, TaskOffer, WaitReason
from ravan_edge.training import LocalSettings
from ravan_server.coordinator import Coordinator
from ravan_server.serving import DATABASE_NAME
from ravan_server.settings import RoundSettings
from ravan_server.store import SqliteStore, TaskRow
from tests.server.server_kit import ask, device_update, send, wait_for

__all__ = [
    "LOCAL",
    "do",
    "heads",
    "one_round",
    "refusal",
    "rounds",
    "rows",
    "slow_device",
    "task",
    "wait_reason",
]

LOCAL = LocalSettings(local_steps=1)


def rounds(
    *,
    goal: int = 3,
    buffer: int | None = 2,
    max_staleness: int | None = None,
    weighting: Weighting = Weighting.UNIFORM,
    minimum: int | None = None,
) -> RoundSettings:
    rule = RoundRule(RoundMode.ASYNC, buffer, max_staleness, weighting)
    return RoundSettings(
        local=LOCAL, rule=rule, goal=goal, over_selection=1, minimum=minimum, deadline_seconds=60
    )


def task(server: Coordinator, number: int) -> TaskOffer:
    found = ask(server, f"device-{number:03}")
    assert isinstance(found, TaskOffer), found
    return found


def wait_reason(server: Coordinator, number: int) -> WaitReason:
    found = ask(server, f"device-{number:03}")
    assert isinstance(found, ComeBack), found
    return found.reason


def do(server: Coordinator, offer: TaskOffer) -> None:
    send(server, device_update(server.artifact, offer), offer.task)


def one_round(server: Coordinator) -> None:
    """Two updates, and the version that they make."""
    version = server.status().version
    for number in range(2):
        do(server, task(server, number))
    wait_for(server, version + 1)


def slow_device(server: Coordinator) -> TaskOffer:
    """The task of device 0, which is still out when devices 1 and 2 have made version 1."""
    slow, first, second = (task(server, number) for number in range(3))
    do(server, first)
    do(server, second)
    wait_for(server, 1)
    return slow


def refusal(server: Coordinator, offer: TaskOffer) -> Refusal:
    with pytest.raises(Refusal) as caught:
        do(server, offer)
    return caught.value


def rows(state: Path) -> dict[str, TaskRow]:
    store = SqliteStore(state / DATABASE_NAME)
    try:
        with store.reading() as transaction:
            last = transaction.attempt().id
            return {row.task: row for at in range(1, last + 1) for row in transaction.tasks(at)}
    finally:
        store.close()


def heads(server: Coordinator, version: int) -> Path:
    return server.blob(next(each.heads for each in server.versions() if each.version == version))
