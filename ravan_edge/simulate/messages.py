"""What the main process and its workers say to each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ravan_edge.data import Dataset
from ravan_edge.merge import MergeScale
from ravan_edge.methods import Vector
from ravan_edge.simulate.clock import Clock
from ravan_edge.simulate.settings import SimulationSettings

__all__ = [
    "BatchScores",
    "Collect",
    "DeviceOutcome",
    "EvaluateBatches",
    "EvaluationSet",
    "Failure",
    "OpenArtifact",
    "OpenData",
    "TrainDevices",
    "Transfer",
    "UseHeads",
]


@dataclass(frozen=True)
class Transfer:
    """Exact bytes that travel.

    Args:
        download_once: What a device fetches on its first participation: base, graphs, tokenizer.
        download_per_round: The heads.
        upload: An update, by the number of heads a device trains.
    """

    download_once: int
    download_per_round: int
    upload: dict[int, int]

    def download(self, *, first: bool) -> int:
        """Bytes of a device's download, on its first participation or a later one."""
        return self.download_per_round + (self.download_once if first else 0)


@dataclass(frozen=True)
class EvaluationSet:
    """Rows that are scored, cut into batches that do not depend on who computes them.

    Args:
        dataset: Where the rows are.
        rows: Row numbers, int64 [rows].
        batch_size: Rows of a batch; the last one may be shorter.
    """

    dataset: Dataset
    rows: NDArray[np.int64]
    batch_size: int

    @property
    def batches(self) -> int:
        """How many batches."""
        return -(-len(self.rows) // self.batch_size)

    def by_length(self) -> NDArray[np.int64]:
        """The rows in ascending order of their length: batches are padded as little as can be."""
        return self.rows[np.argsort(self.dataset.lengths[self.rows], kind="stable")]


@dataclass(frozen=True)
class OpenArtifact:
    """First message: map the artifact and load the runtime. The sender checked the digests.

    Args:
        folder: Of the artifact.
        plan: That computes the steps.
        threads: Inside one step.
        residuals: Where those of error feedback are kept.
    """

    folder: Path
    plan: str
    threads: int
    residuals: Path


@dataclass(frozen=True)
class OpenData:
    """Second message: everything a worker needs to train any device.

    Args:
        settings: The run's.
        train: The training rows; a pickled dataset is its path, all workers map the same pages.
        examples: Rows of all devices one behind the other, int64.
        offsets: Device d has ``examples[offsets[d]:offsets[d + 1]]``, int64 [devices + 1].
        heads: K of each device, int32 [devices].
        clock: The devices' rates.
        transfer: Bytes that travel.
        scale: Of the exact sums.
        sets: What can be evaluated, by name.
        scratch: Where workers may write differences; None: nobody merges them here.
    """

    settings: SimulationSettings
    train: Dataset
    examples: NDArray[np.int64]
    offsets: NDArray[np.int64]
    heads: NDArray[np.int32]
    clock: Clock
    transfer: Transfer
    scale: MergeScale
    sets: dict[str, EvaluationSet]
    scratch: Path | None = None


@dataclass(frozen=True)
class UseHeads:
    """From now on train from and evaluate these heads; what is gathered starts anew.

    Args:
        version: Of the heads.
        heads: Float32 [parameters].
        staleness: How many versions were made since; None: rounds are synchronous.
    """

    version: int
    heads: Vector
    staleness: int | None = None


class TrainDevices(NamedTuple):
    """Train these devices from the current heads.

    Args:
        devices: Numbers.
        first: For each, whether it never took part before.
    """

    devices: list[int]
    first: list[bool]


class Collect(NamedTuple):
    """Hand over all differences since the last :class:`UseHeads`, or their sum."""


class EvaluateBatches(NamedTuple):
    """Score these batches of a set with the current heads."""

    name: str
    batches: list[int]


class DeviceOutcome(NamedTuple):
    """How a device's round went; a tuple, since there are thousands of them a second.

    Args:
        device: Its number.
        status: ``merged``, ``late``, ``dropped_out``, ``bad_numbers``, ``crashed`` or ``stale``.
        line: Its line of metrics.jsonl, with the final newline.
        loss: Mean loss of its steps, or None.
        seconds: Simulated seconds from the start of the round to the arrival of the update.
        download_bytes, upload_bytes: What travelled.
        tokens: Tokens it trained on.
        error: What went wrong, or None.
    """

    device: int
    status: str
    line: bytes
    loss: float | None
    seconds: float
    download_bytes: int
    upload_bytes: int
    tokens: int
    error: str | None = None


@dataclass(frozen=True)
class BatchScores:
    """Scores of some batches of a set.

    Args:
        losses: (number of the batch, its loss sum).
        count: Counted rows (or tokens) of each class, int64 [labels]; all in one for tasks without
            labels.
        correct: Those predicted right, int64 [labels].
    """

    losses: list[tuple[int, float]]
    count: NDArray[np.int64]
    correct: NDArray[np.int64]


@dataclass(frozen=True)
class Failure:
    """An error that ended a worker's work.

    Args:
        error: As it was raised; it keeps its type across the process border.
        trace: The traceback as text.
    """

    error: BaseException
    trace: str
