"""A worker pool without processes, for tests that run a simulation hundreds of times."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from ravan_edge.closing import Closing
from ravan_edge.merge import Gathered
from ravan_edge.simulate.messages import (
    BatchScores,
    DeviceOutcome,
    EvaluateBatches,
    OpenArtifact,
    OpenData,
    TrainDevices,
    UseHeads,
)
from ravan_edge.simulate.worker import Worker

__all__ = ["InProcessPool", "NoSampler"]


class InProcessPool(Closing):
    """Stands in for :class:`ravan_edge.simulate.workers.WorkerPool`."""

    def __init__(self, workers: int, threads: int) -> None:
        assert workers >= 1
        assert threads >= 1
        self._worker: Worker | None = None

    @property
    def process_ids(self) -> tuple[int, ...]:
        return (os.getpid(),)

    @property
    def worker(self) -> Worker:
        assert self._worker is not None
        return self._worker

    def open(self, message: OpenArtifact | OpenData | UseHeads) -> None:
        if isinstance(message, OpenArtifact):
            self._worker = Worker(message)
        elif isinstance(message, OpenData):
            self.worker.open_data(message)
        else:
            self.worker.use_heads(message)

    def train(
        self, devices: Sequence[int], first: Sequence[bool]
    ) -> tuple[list[DeviceOutcome], Gathered]:
        outcomes = self.worker.train(TrainDevices(list(devices), list(first)))
        return outcomes, self.worker.collect()

    def evaluate(self, name: str, batches: int) -> list[BatchScores]:
        return [self.worker.evaluate(EvaluateBatches(name, list(range(batches))))]

    def close(self) -> None:
        self._worker = None


class NoSampler:
    """Stands in for :class:`ravan_edge.memory.PeakSampler`, which is a process too."""

    def __init__(self, pids: Iterable[int], *, interval_seconds: float) -> None:
        assert list(pids)
        assert interval_seconds > 0

    def peak_bytes(self, pid: int) -> int:
        return pid

    def family_peak_bytes(self, pid: int) -> int:
        return pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing runs."""
