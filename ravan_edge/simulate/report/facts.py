"""What a report tells, as plain frozen values: between the files of a run and its page.

The reader fills these from a run folder, the figures and the page take nothing else. ``None``
means that the run did not measure it, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "ClassFacts",
    "DeviceFacts",
    "Evaluation",
    "Pair",
    "RoundFacts",
    "RunFacts",
    "Score",
]

Pair = tuple[str, str]
"""A row of a table: what, and its value."""


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy (0 .. 1) and mean loss on one set of rows."""

    accuracy: float | None
    loss: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The model after ``round`` merges; round 0 is the model as exported."""

    round: int
    sent_bytes: int  # over the network so far, both directions, all devices
    seconds: float  # simulated, so far
    test: Score | None = None
    validation: Score | None = None


@dataclass(frozen=True, slots=True)
class RoundFacts:
    """One round, summed over its devices."""

    round: int
    download_bytes: int
    upload_bytes: int
    seconds: float  # simulated
    slowest: tuple[float, float, float] | None  # its download, compute, upload seconds
    slowest_device: int | None
    outcomes: Mapping[str, int]  # what became of a device's work -> how many devices
    train_loss: float | None = None
    staleness: float | None = (
        None  # mean of the merged updates; None where devices wait for each other
    )


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One device over the whole run."""

    device: int
    name: str  # its number, or the user it stands for
    rows: int
    class_count: int  # different classes among its rows
    classes: tuple[int, ...]  # rows of each class; empty where there are too many to keep
    outcomes: Mapping[str, int]  # as in RoundFacts; its sum is how often it was asked
    seconds: float | None  # simulated, mean of the rounds it finished
    heads: int | None = None  # its head budget, where there is one


@dataclass(frozen=True, slots=True)
class ClassFacts:
    """One class of the test file."""

    label: str
    rows: int
    before: float | None  # accuracy (recall) of the model as exported
    after: float | None  # ... after the last round


@dataclass(frozen=True)
class RunFacts:
    """Everything the page of a run shows."""

    name: str  # the run folder's own name
    method: str
    model: str
    task: str
    labels: tuple[str, ...]
    devices: tuple[DeviceFacts, ...]
    rounds: tuple[RoundFacts, ...]
    planned_rounds: int
    evaluations: tuple[Evaluation, ...]
    classes: tuple[ClassFacts, ...]
    initial: Score | None  # on the test file, as exported
    final: Score | None  # ... after the last round
    best_round: int | None  # chosen on the validation split alone
    best_test: Score | None
    upload_bytes_per_update: int | None
    download_bytes_per_round: int | None
    download_bytes_once: int | None
    model_bytes: int | None  # what sending the whole model would cost
    seconds: float | None  # real, all workers together waited this long
    peak_memory_bytes: int | None
    per_round: int
    partition: str
    command: str
    settings: tuple[Pair, ...]
    artifact: tuple[Pair, ...]
    versions: tuple[Pair, ...]
    warnings: tuple[str, ...] = field(default=())

    @property
    def simulated_seconds(self) -> float:
        """From the first round's start to the last one's end, by the virtual clock."""
        return sum(facts.seconds for facts in self.rounds)

    @property
    def sent_bytes(self) -> int:
        """Over the network in the whole run, both directions, all devices."""
        return sum(facts.download_bytes + facts.upload_bytes for facts in self.rounds)
