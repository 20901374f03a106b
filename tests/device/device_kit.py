"""A device for tests: real state, real requests; time, luck and conditions are the test's."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ravan_edge.artifact import Artifact
from ravan_edge.data import Dataset
from ravan_edge.device import Device, DeviceSettings, DeviceState, ServerConnection
from ravan_edge.protocol import Conditions
from ravan_edge.tasks import DataSource, task_for, text_length
from ravan_edge.training import LocalSettings
from ravan_server.settings import RoundSettings
from tests.tiny_artifact import tiny_rows

__all__ = [
    "LOCAL",
    "ROUNDS",
    "Killed",
    "MadeUpConditions",
    "close_devices",
    "events",
    "load_rows",
    "make_device",
    "write_rows",
]

LOCAL = LocalSettings(local_steps=6, batch_size=8, lr=1e-2)
ROUNDS = RoundSettings(local=LOCAL, goal=1, over_selection=1)

_OPEN: list[ServerConnection] = []


@pytest.fixture(autouse=True)
def close_devices() -> Iterator[None]:
    """Connections of all devices of a test end with it, as a process's would."""
    yield
    while _OPEN:
        _OPEN.pop().close()


class Killed(BaseException):
    """Ends a device as a kill would."""


def events(folder: Path) -> list[str]:
    """What a device's log says, in a word each."""
    return [line["event"] for line in DeviceState(folder).log()]


@dataclass
class MadeUpConditions:
    """Conditions that a test sets."""

    mains_power: bool | None = True
    minute: int = 12 * 60
    looks: int = field(default=0, init=False)
    later: Callable[[MadeUpConditions], None] = field(default=lambda conditions: None)

    def now(self) -> Conditions:
        self.looks += 1
        self.later(self)
        return Conditions(mains_power=self.mains_power)

    def minute_of_day(self) -> int:
        self.later(self)
        return self.minute


def write_rows(path: Path, seed: int, count: int = 60) -> Path:
    """A csv file of rows that can be learned."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *tiny_rows(count, seed=seed)])
    return path


def load_rows(path: Path) -> Callable[[Artifact], Dataset]:
    """As ``ravan device`` reads them."""

    def load(artifact: Artifact) -> Dataset:
        length = text_length(artifact.manifest.text, None, None)
        source = DataSource(path, max_length=length)
        return task_for(artifact.manifest).load(artifact, source).dataset

    return load


def make_device(
    folder: Path,
    url: str,
    rows: Path,
    settings: DeviceSettings | None = None,
    conditions: MadeUpConditions | None = None,
) -> Device:
    """A device whose waiting takes no time; ``folder`` is its state."""
    connection = ServerConnection(url)
    _OPEN.append(connection)
    return Device(
        DeviceState(folder),
        connection,
        load_rows(rows),
        settings or DeviceSettings(tasks=1, checkpoint_seconds=0),
        conditions or MadeUpConditions(),
        sleep=lambda seconds: None,
        uniform=lambda low, high: low,
    )
