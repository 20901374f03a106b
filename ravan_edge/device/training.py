"""From a task to the update file that will be sent: training that can be killed and gone on with."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from ravan_edge.artifact import Artifact, read_heads
from ravan_edge.data import Dataset
from ravan_edge.device.settings import DeviceSettings
from ravan_edge.device.state import CurrentTask, DeviceState
from ravan_edge.errors import ArtifactError, MemoryLimitError
from ravan_edge.files import write_atomic
from ravan_edge.memory import PeakSampler, format_bytes
from ravan_edge.merge import DEFAULT_BOUND_EXPONENT
from ravan_edge.methods import method_for
from ravan_edge.plans import open_step
from ravan_edge.protocol import (
    CodedDifference,
    UpdateInfo,
    code_difference,
    encode_coded_update,
    encode_update,
    rounding_stream,
)
from ravan_edge.training import (
    LocalResult,
    LocalSettings,
    RoundState,
    initial_state,
    load_state,
    local_round,
    save_state,
)

__all__ = ["TaskTraining"]

# With a memory limit. It is looked at after a step, and of the 65,536 rows that a server may ask for
# there would be no such moment; more rows at once than these make a step hardly faster.
_FIRST_ROWS = 64


class TaskTraining:
    """The training of one task.

    Args:
        task: What the server asks for.
        artifact: What it trains.
        dataset: The device's rows, all of which it trains on.
        state: Where checkpoints and the update go.
        settings: The device's own.
        say: Told what a user may want to know.
        on_step: Told after every step; what it raises ends the training, which can be gone on with.
        on_trained: Told the result, with the difference that the server will read, before the update
            file is there.
        number: Addresses the random numbers; None: the number that the server gave the device.
    """

    def __init__(
        self,
        task: CurrentTask,
        artifact: Artifact,
        dataset: Dataset,
        state: DeviceState,
        settings: DeviceSettings,
        say: Callable[[str], None],
        on_step: Callable[[RoundState], None],
        on_trained: Callable[[LocalResult], None] = lambda result: None,  # noqa: ARG005
        number: int | None = None,
    ) -> None:
        self._offer = task.offer
        self._number = task.offer.device if number is None else number
        self._artifact = artifact
        self._method = method_for(artifact.manifest)
        self._dataset = dataset
        self._state = state
        self._settings = settings
        self._say = say
        self._on_step = on_step
        self._on_trained = on_trained
        self._saved_at = time.monotonic()
        tensors = read_heads(state.heads_path, artifact)
        self._start = self._method.layout.pack(tensors)

    def run(self) -> LocalResult:
        """Train, and write the update file.

        Raises:
            MemoryLimitError: Even single rows do not fit the memory limit.
            NumericsError: The numbers went bad.
            WorkerError: The runtime's process died.
        """
        result = self._fitting(self._first_settings())
        coded = self._coded(result)
        self._on_trained(result if coded is None else replace(result, difference=coded.received))
        info = UpdateInfo(
            task=self._offer.task,
            version=self._offer.version,
            artifact=self._artifact.digest,
            examples=result.examples,
            steps=result.steps,
            codec=self._offer.upload.codec,
        )
        if coded is None:
            content = encode_update(info, self._method, result.difference, result.training)
        else:
            content = encode_coded_update(info, result.training, coded.tensors)
            if coded.residuals is not None:
                self._state.residual.prepare(coded.residuals, self._artifact.digest)
        # Last: from now on the task is one that is only to be sent.
        write_atomic(self._state.update_path, [content])
        return result

    def _coded(self, result: LocalResult) -> CodedDifference | None:
        """The difference as the task's codec writes it; None: as it is."""
        codec = self._offer.upload.coder
        if codec is None:
            return None
        size = self._method.layout.size
        return code_difference(
            codec,
            self._method,
            result.difference,
            result.training,
            self._state.residual.load(self._artifact.digest, size) if codec.biased else None,
            rounding_stream(self._offer.seed, self._offer.version, self._number),
            2.0**DEFAULT_BOUND_EXPONENT,
        )

    def _fitting(self, local: LocalSettings) -> LocalResult:
        """Train, with fewer rows at once each time the memory limit was passed."""
        while True:
            try:
                return self._train(local)
            except MemoryLimitError as error:
                rows = local.micro_batch or local.batch_size
                if rows == 1:
                    raise
                local = replace(local, micro_batch=rows // 2)
                self._say(f"{error.message}: now {rows // 2} rows at once")

    def _first_settings(self) -> LocalSettings:
        """The server's, with as many rows at once as this device wants at most."""
        local = self._offer.local
        own = self._settings.micro_batch
        if own is None and self._settings.memory_limit is not None:
            own = _FIRST_ROWS
        if own is None or own >= (local.micro_batch or local.batch_size):
            return local
        return replace(local, micro_batch=own)

    def _train(self, local: LocalSettings) -> LocalResult:
        manifest, offer = self._artifact.manifest, self._offer
        layers = {layer.name: layer.heads for layer in manifest.layers}
        heads = self._heads_to_train()
        limit = self._settings.memory_limit_bytes
        with ExitStack() as stack:
            # A process of its own, which nobody needs without a limit.
            sampler = stack.enter_context(PeakSampler([os.getpid()])) if limit else None
            step = stack.enter_context(
                open_step(self._artifact, offer.plan, self._settings.runtime)
            )

            def after_step(state: RoundState) -> None:
                if sampler is not None and limit is not None:
                    _check_memory(sampler, limit)
                self._keep(state)
                self._on_step(state)

            return local_round(
                step,
                self._method,
                self._start,
                self._dataset,
                np.arange(len(self._dataset), dtype=np.int64),
                local,
                layers=layers,
                seed=offer.seed,
                round=offer.version,
                device=self._number,
                heads_to_train=heads,
                on_step=after_step,
                resume=self._resume(local, layers),
            )

    def _heads_to_train(self) -> int | None:
        """The server's number, or this device's own, which may be lower since the task was given."""
        most = self._method.heads_per_layer
        limits = (self._offer.heads_to_train, self._settings.train_heads)
        wanted = min((limit for limit in limits if limit is not None), default=None)
        return None if wanted is None or not most or wanted >= most else wanted

    # -- checkpoints

    @property
    def _configuration(self) -> str:
        """All that the rest of the training depends on; rows at once change memory and time alone."""
        content = {
            "task": self._offer.task,
            "settings": {**self._offer.settings, "micro_batch": None},
            "rows": len(self._dataset),
            "heads": self._heads_to_train(),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _keep(self, state: RoundState) -> None:
        if time.monotonic() - self._saved_at >= self._settings.checkpoint_seconds:
            save_state(self._state.unfinished_path, state, self._configuration)
            self._saved_at = time.monotonic()

    def _resume(self, local: LocalSettings, layers: dict[str, int]) -> RoundState | None:
        path = self._state.unfinished_path
        if not path.exists():
            return None
        try:
            empty = initial_state(self._method, self._start, local)
            found = load_state(path, empty, layers, self._configuration)
        except ArtifactError as error:
            self._say(f"training anew: {error}")
            return None
        if found is not None:
            self._say(f"going on after step {found.steps}")
        return found


def _check_memory(sampler: PeakSampler, limit: int) -> None:
    peak = sampler.family_peak_bytes(os.getpid())
    if peak > limit:
        raise MemoryLimitError(
            f"the step took {format_bytes(peak)}, more than {format_bytes(limit)}",
            where="--memory-limit",
            hint="raise the limit, use --train-heads 1, or leave this model to larger devices",
        )
