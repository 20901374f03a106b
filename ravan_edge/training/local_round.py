"""One device's local round: from the heads of a version to the difference it uploads.

    s = 1, choose heads                              (paper, section on weak devices)
    S mini-batches:  g = sum of micro-batch gradients / sum of counts, clipped
                     parameters <- optimiser(parameters, g)
    D = fold(parameters) - heads

Every random choice comes from the generator, so a round is a function of its arguments. Nothing is
written to the arguments: an interrupt at any moment loses nothing but the round's own work.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravan_edge.data import (
    Batch,
    Dataset,
    Draw,
    local_round_batches,
    split_micro_batches,
)
from ravan_edge.errors import DataError, NumericsError, UsageError
from ravan_edge.methods import HeadIndices, HeadScore, Method, Training, Vector, choose_heads
from ravan_edge.plans.step import Step, StepResult
from ravan_edge.training.settings import LocalSettings
from ravan_edge.training.state import RoundState

__all__ = ["LocalResult", "OnStep", "initial_state", "local_round", "run_batch"]

OnStep = Callable[[RoundState], None]
"""Called after every step. Keeping the state is a checkpoint: nothing writes to it again."""

# A loss counts as diverging when the mean of the last five steps is far beyond the first step's,
# and far beyond what a wrong but sane classifier has.
_DIVERGENCE_WINDOW = 5
_DIVERGENCE_FACTOR = 4.0
_DIVERGENCE_MARGIN = 8.0


@dataclass(frozen=True, slots=True, eq=False)
class LocalResult:
    """What one local round found.

    Attributes:
        difference: Float32 [parameters], the update: 0 where nothing trained.
        parameters: Float32 [parameters], as they are after the last step, not folded.
        training: What trained and what ran.
        losses: Float32 [steps], mean loss of each step, before that step's update.
        steps: How many steps were done.
        examples: Rows seen (a row counts each time).
        tokens: Tokens seen, padding not counted.
        counted: Rows (or tokens) whose label counted.
        correct: How many of them were right, before the step's update.
        seconds: Wall-clock time of the round.
    """

    difference: Vector
    parameters: Vector
    training: Training
    losses: Vector
    steps: int
    examples: int
    tokens: int
    counted: int
    correct: int
    seconds: float

    @property
    def mean_loss(self) -> float:
        """Mean of the losses of all steps."""
        return float(self.losses.mean(dtype=np.float64))


def initial_state(
    method: Method,
    heads: Vector,
    settings: LocalSettings,
    trained: Mapping[str, HeadIndices] | None = None,
) -> RoundState:
    """The state before the first step: s = 1, fresh moments, counters zero."""
    return RoundState(
        start=heads,
        parameters=method.start_round(heads),
        optimiser=settings.make_optimiser().init(method.layout.size),
        losses=np.empty(0, np.float32),
        examples=0,
        tokens=0,
        counted=0,
        correct=0,
        trained=trained,
    )


def run_batch(
    step: Step, batch: Batch, trainables: Mapping[str, Vector], micro_batch: int | None
) -> StepResult:
    """One mini-batch, whole or as micro-batches whose losses, counts and gradients add up."""
    if micro_batch is None or batch.rows <= micro_batch:
        return step.train(batch.graph_inputs, trainables)
    loss_sum, count = 0.0, 0
    metrics: dict[str, float] = {}
    gradients: dict[str, Vector] = {}
    for piece in split_micro_batches(batch, micro_batch):
        result = step.train(piece.graph_inputs, trainables)
        loss_sum += result.loss_sum
        count += result.count
        for name, value in result.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + value
        for name, gradient in result.gradients.items():
            total = gradients.get(name)
            if total is None:
                gradients[name] = gradient.copy()  # what a runtime returns may be its own buffer
            else:
                total += gradient
    return StepResult(loss_sum, count, metrics, gradients)


def local_round(
    step: Step,
    method: Method,
    heads: Vector,
    dataset: Dataset,
    examples: NDArray[np.int64],
    settings: LocalSettings,
    *,
    layers: Mapping[str, int],
    seed: int,
    round: int,
    device: int,
    heads_to_train: int | None = None,
    on_step: OnStep | None = None,
    resume: RoundState | None = None,
) -> LocalResult:
    """Train one device for one round.

    Args:
        step: An opened plan; its choice of heads is set here.
        method: What trains.
        heads: Float32 [parameters], the version the round starts from, folded.
        dataset: Where the rows are.
        examples: Int64 [E], the device's rows, E >= 1.
        settings: Steps, batches, optimiser.
        layers: Heads h of each adapted layer, in the manifest's order.
        seed: The run's seed.
        round: Number of the round.
        device: Number of the device.
        heads_to_train: K: how many heads of each layer train; None: all of them.
        on_step: Called after every step.
        resume: A state of this very round to go on from.

    Raises:
        NumericsError: NaN or infinity in a loss or gradient, or a diverging loss; names the step.
        DataError: No examples, or a mini-batch without a single label.
        UsageError: ``heads_to_train`` does not fit the method.
    """
    began = time.perf_counter()
    if not len(examples):
        raise DataError(
            "no examples to train on",
            where=f"device {device}",
            hint="leave devices without data out",
        )
    batches = local_round_batches(
        examples,
        seed=seed,
        round=round,
        device=device,
        batch_size=settings.batch_size,
        steps=settings.local_steps,
    )

    def gather(step_number: int, rows: NDArray[np.int64]) -> Batch:
        return dataset.batch(rows, Draw(seed, round, device, step_number))

    with np.errstate(over="ignore", invalid="ignore"):  # numbers that go bad are reported below
        if resume is None:
            first = next(batches)
            trained = _chosen_heads(
                step, method, heads, settings, layers, heads_to_train,
                lambda: gather(0, first), (seed, round, device),
            )  # fmt: skip
            state = initial_state(method, heads, settings, trained)
            batches = itertools.chain([first], batches)
        else:
            state = resume
            batches = itertools.islice(batches, state.steps, None)
        training = method.training(state.start, state.trained)
        step.use_heads(training.running)
        loop = _Loop(step, method, settings, training, f"round {round}, device {device}", on_step)
        state = loop.run(state, map(gather, itertools.count(state.steps), batches))
        difference = method.difference(state.parameters, state.start, training)
    if not math.isfinite(float(np.abs(difference).max(initial=0.0))):
        raise _bad_numbers("the update holds NaN or infinity", loop.where, settings)
    return LocalResult(
        difference=difference,
        parameters=state.parameters,
        training=training,
        losses=state.losses,
        steps=state.steps,
        examples=state.examples,
        tokens=state.tokens,
        counted=state.counted,
        correct=state.correct,
        seconds=time.perf_counter() - began,
    )


def _chosen_heads(
    step: Step,
    method: Method,
    heads: Vector,
    settings: LocalSettings,
    layers: Mapping[str, int],
    count: int | None,
    first_batch: Callable[[], Batch],
    address: tuple[int, int, int],
) -> dict[str, HeadIndices] | None:
    """The heads that train, by the settings' score; None: everything."""
    every = method.heads_per_layer
    if count is None or (count == every and every):
        return None
    if not 1 <= count <= every:
        found = f"the artifact's layers have {every}" if every else "this method has no heads"
        raise UsageError(
            f"cannot train {count} heads of each layer: {found}",
            where="--train-heads",
            hint="leave it out to train everything",
        )
    norms = None
    if settings.score is not HeadScore.RANDOM:
        # One batch scores every head, those that are still zero too: so all of them run.
        everything = method.training(heads, None)
        tensors: Mapping[str, Vector] = method.to_graph(method.start_round(heads), everything)
        if settings.score is HeadScore.GRADIENT:
            step.use_heads(everything.running)
            tensors = run_batch(step, first_batch(), tensors, settings.micro_batch).gradients
        norms = method.head_norms(tensors)
    seed, number, device = address
    return choose_heads(norms, layers, count, seed=seed, round=number, device=device)


@dataclass(frozen=True)
class _Loop:
    """The steps of one round."""

    step: Step
    method: Method
    settings: LocalSettings
    training: Training
    where: str
    on_step: OnStep | None

    def run(self, state: RoundState, batches: Iterator[Batch]) -> RoundState:
        optimiser = self.settings.make_optimiser()
        rates = self.settings.rates(self.method.layout)
        losses = np.empty(self.settings.local_steps, np.float32)
        done = state.steps
        losses[:done] = state.losses
        parameters, moments = state.parameters, state.optimiser
        examples, tokens, counted, correct = (
            state.examples,
            state.tokens,
            state.counted,
            state.correct,
        )

        def now() -> RoundState:
            return RoundState(
                state.start, parameters, moments, losses[:done].copy(),
                examples, tokens, counted, correct, state.trained,
            )  # fmt: skip

        for batch in batches:
            trainables = self.method.to_graph(parameters, self.training)
            result = run_batch(self.step, batch, trainables, self.settings.micro_batch)
            losses[done] = self._mean_loss(result, losses[:done])
            gradient = self.method.to_params(parameters, result.gradients, self.training)
            gradient *= np.float32(1.0 / result.count)
            self._check_gradient(gradient, losses[: done + 1])
            if self.settings.clip_norm is not None:
                _clip(gradient, self.settings.clip_norm)
            moments, parameters = optimiser.apply(moments, parameters, gradient, rates)
            done += 1
            examples += batch.rows
            tokens += batch.tokens
            counted += result.count
            correct += int(result.metrics.get("correct", 0))
            self._check_divergence(losses[:done])
            if self.on_step is not None:
                self.on_step(now())
        return now()

    def _mean_loss(self, result: StepResult, before: Vector) -> float:
        if result.count < 1:
            raise DataError(
                f"nothing in the mini-batch of step {len(before) + 1} has a label",
                where=self.where,
                hint="train on rows that have labels",
            )
        loss = result.loss_sum / result.count
        if not math.isfinite(loss):
            raise self._bad(f"the loss became {loss}", len(before) + 1, before)
        return loss

    def _check_gradient(self, gradient: Vector, losses: Vector) -> None:
        # One dot product sees every NaN and infinity. It may overflow on finite numbers too: then
        # look at each.
        if not math.isfinite(gradient.dot(gradient)) and not np.isfinite(gradient).all():
            raise self._bad("the gradient holds NaN or infinity", len(losses), losses)

    def _check_divergence(self, losses: Vector) -> None:
        if len(losses) <= _DIVERGENCE_WINDOW:
            return
        recent = float(losses[-_DIVERGENCE_WINDOW:].mean())
        if recent > _DIVERGENCE_FACTOR * float(losses[0]) + _DIVERGENCE_MARGIN:
            raise self._bad(
                f"the loss diverges: {losses[0]:.4g} at step 1, {recent:.4g} in the last "
                f"{_DIVERGENCE_WINDOW} steps",
                len(losses),
                losses,
            )

    def _bad(self, what: str, number: int, losses: Vector) -> NumericsError:
        last = f" (last loss {losses[-1]:.4g})" if len(losses) else ""
        steps = self.settings.local_steps
        return _bad_numbers(f"{what} at step {number} of {steps}{last}", self.where, self.settings)


def _bad_numbers(message: str, where: str, settings: LocalSettings) -> NumericsError:
    rates = f"lower --lr (it is {settings.lr:g})"
    if settings.task_head_lr is not None:
        rates = (
            f"lower --lr or --task-head-lr (they are {settings.lr:g}, {settings.task_head_lr:g})"
        )
    return NumericsError(message, where=where, hint=f"{rates}, or bound steps with --clip-norm 1")


def _clip(gradient: Vector, norm: float) -> None:
    """Scale the gradient in place so that its norm is at most ``norm``.

    The sum of squares is numpy's own in float64, not a BLAS product, whose bits depend on threads.
    """
    length = math.sqrt(float(np.square(gradient, dtype=np.float64).sum()))
    if length > norm:
        gradient *= np.float32(norm / length)
