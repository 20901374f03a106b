"""The worker process: trains devices and scores batches, one message after the other.

Started as a program of its own, with a pipe each way. It keeps no state worth saving: whatever
happens to it, the run folder is the main process's business. The pipe's end is the end of it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact import open_artifact
from ravan_edge.errors import NumericsError, RavanError, WorkerError
from ravan_edge.merge import Gathered, Gathering
from ravan_edge.methods import Vector, method_for
from ravan_edge.plans import RuntimeSettings, open_step
from ravan_edge.protocol import CodedDifference, code_difference, rounding_stream
from ravan_edge.simulate.channel import receive, send
from ravan_edge.simulate.messages import (
    BatchScores,
    Collect,
    DeviceOutcome,
    EvaluateBatches,
    EvaluationSet,
    Failure,
    OpenArtifact,
    OpenData,
    TrainDevices,
    UseHeads,
)
from ravan_edge.simulate.metrics import Trained, failed_status, trained_outcome
from ravan_edge.simulate.residuals import RunResiduals
from ravan_edge.training import LocalResult, class_counts, local_round

__all__ = ["Worker", "main"]

_TORN_PIPE = (EOFError, BrokenPipeError, ConnectionResetError)


class _Opened:
    """An artifact with its step and method."""

    def __init__(self, message: OpenArtifact) -> None:
        self.artifact = open_artifact(message.folder, check_digests=False)
        self.manifest = self.artifact.manifest
        self.method = method_for(self.manifest)
        runtime = RuntimeSettings(threads=message.threads)
        self.step = open_step(self.artifact, message.plan, runtime)
        self.layers = {layer.name: layer.heads for layer in self.manifest.layers}
        self.residuals = RunResiduals(
            message.residuals, self.artifact.digest, self.method.layout.size
        )


class Worker:
    """What a worker knows and can do; see :mod:`ravan_edge.simulate.messages`."""

    def __init__(self, message: OpenArtifact) -> None:
        self._opened = _Opened(message)
        self._data: OpenData | None = None
        self._orders: dict[str, NDArray[np.int64]] = {}
        self._version = 0
        self._staleness: int | None = None
        self._heads: Vector = np.empty(0, np.float32)
        self._gathering: Gathering | None = None
        self._gatherings = 0

    def open_data(self, message: OpenData) -> None:
        """Take the data of the run."""
        self._data = message
        self._orders = {name: rows.by_length() for name, rows in message.sets.items()}

    def use_heads(self, message: UseHeads) -> None:
        """Take the heads of a version; what is gathered starts anew."""
        self._version, self._heads = message.version, message.heads
        self._staleness = message.staleness
        self._gathering = None

    @cached_property
    def _known(self) -> OpenData:
        if self._data is None:
            raise ValueError("the data come before any work")
        return self._data

    def collect(self) -> Gathered:
        """What was gathered since the last heads."""
        gathered = self._gather().finished()
        self._gathering = None
        return gathered

    def _gather(self) -> Gathering:
        """Into which differences go; made for the first one, since heads are also evaluated."""
        if self._gathering is None:
            data = self._known
            if data.scratch is None:
                raise ValueError("nobody merges here")
            self._gatherings += 1
            self._gathering = Gathering(
                data.settings.merging,
                self._opened.method,
                data.scale,
                data.scratch / f"{os.getpid()}-{self._gatherings}.differences",
            )
        return self._gathering

    def train(self, message: TrainDevices) -> list[DeviceOutcome]:
        """One local round of each device; the updates of those in time are gathered."""
        return [
            self._train_device(device, first)
            for device, first in zip(message.devices, message.first, strict=True)
        ]

    def _train_device(self, device: int, first: bool) -> DeviceOutcome:
        data, opened = self._known, self._opened
        heads = int(data.heads[device])
        outcome = partial(
            trained_outcome,
            data,
            version=self._version,
            device=device,
            first=first,
            staleness=self._staleness,
        )
        try:
            result = local_round(
                opened.step,
                opened.method,
                self._heads,
                data.train,
                data.examples[data.offsets[device] : data.offsets[device + 1]],
                data.settings.local,
                layers=opened.layers,
                seed=data.settings.seed,
                round=self._version,
                device=device,
                heads_to_train=heads if heads < opened.method.heads_per_layer else None,
            )
            found = outcome(trained=Trained.of(result))
            if found.status == "merged":
                settings = data.settings
                weight = settings.rule.weight(
                    result.examples, self._staleness or 0, settings.most_examples
                )
                coded = self._coded(device, result)
                sent = result.difference if coded is None else coded.received
                self._gather().add(sent, result.training.mask, weight)
                if coded is not None and coded.residuals is not None:
                    kept = coded.residuals.acknowledged
                    opened.residuals.keep(device, self._merge, self._version, kept)
        except (NumericsError, WorkerError) as bad:
            return outcome(trained=None, status=failed_status(bad), error=str(bad))
        return found

    @property
    def _merge(self) -> int:
        """The latest version."""
        return self._version + (self._staleness or 0)

    def _coded(self, device: int, result: LocalResult) -> CodedDifference | None:
        """A difference as the device writes it and the server reads it; None: as it is."""
        settings, opened = self._known.settings, self._opened
        codec = settings.upload.coder
        if codec is None:
            return None
        residual = None
        if codec.biased:
            residual = opened.residuals.load(device, self._merge, self._version)
        return code_difference(
            codec,
            opened.method,
            result.difference,
            result.training,
            residual,
            rounding_stream(settings.seed, self._version, device),
            2.0**self._known.scale.bound_exponent,
        )

    def evaluate(self, message: EvaluateBatches) -> BatchScores:
        """Scores of some batches with the current heads."""
        data, opened = self._known, self._opened
        rows: EvaluationSet = data.sets[message.name]
        order = self._orders[message.name]
        classes = max(1, len(opened.manifest.labels))
        # Nothing trains: heads that are zero need not run.
        training = opened.method.training(self._heads, {})
        opened.step.use_heads(training.running)
        inputs = opened.method.to_graph(opened.method.start_round(self._heads), training)
        losses = []
        count = np.zeros(classes, np.int64)
        correct = np.zeros(classes, np.int64)
        for number in message.batches:
            chosen = order[number * rows.batch_size : (number + 1) * rows.batch_size]
            batch = rows.dataset.batch(chosen)
            result = opened.step.evaluate(batch.graph_inputs, inputs)
            losses.append((number, result.loss_sum))
            if result.logits is None:
                count += result.count
                correct += int(result.metrics["correct"])
            else:
                found = class_counts(batch.labels, result.logits)
                count += found.total
                correct += found.correct
        return BatchScores(losses, count, correct)


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    worker = Worker(receive(requests))
    silent: dict[type, Callable[[Any], object]] = {
        OpenData: worker.open_data,
        UseHeads: worker.use_heads,
    }
    answered: dict[type, Callable[[Any], object]] = {
        TrainDevices: worker.train,
        EvaluateBatches: worker.evaluate,
        Collect: lambda _: worker.collect(),
    }
    while True:
        message = receive(requests)
        if type(message) in silent:
            silent[type(message)](message)
        else:
            send(answers, answered[type(message)](message))


def _transportable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  (made one line above)
    except Exception:  # noqa: BLE001  (any error inside a foreign __reduce__)
        return RavanError(f"{type(error).__name__}: {error}")
    return error


def main() -> None:
    """Serve on standard input and output until they close."""
    # Ctrl-C reaches the whole process group; the main process decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up among the answers
    try:
        _serve(sys.stdin.buffer, answers)
    except _TORN_PIPE:
        pass  # the main process is gone, or done
    except BaseException as error:  # noqa: BLE001  (it goes to the main process)
        with contextlib.suppress(*_TORN_PIPE):
            send(answers, Failure(_transportable(error), traceback.format_exc()))
    # Not through the interpreter's end: a runtime's threads may be in any state, and nothing here
    # needs cleaning up.
    os._exit(0)
