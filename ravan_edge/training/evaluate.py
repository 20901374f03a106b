"""Scoring heads on labelled rows, and predicting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravan_edge.data import Batch, Dataset
from ravan_edge.errors import DataError, NumericsError
from ravan_edge.methods import Method, Vector
from ravan_edge.plans.step import Evaluation, Step

__all__ = [
    "ClassCounts",
    "OnRows",
    "Scores",
    "class_counts",
    "evaluate",
    "predict",
    "predict_tokens",
]

OnRows = Callable[[int, int], None]
"""Called with the rows done and the rows in all."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassCounts:
    """What one batch says about each class.

    Attributes:
        labels: Int64 [counted], of the rows (or tokens) that count.
        predicted: Int64 [counted], the largest logit of each.
        total: Int64 [classes], how many there are of each class.
        correct: Int64 [classes], how many of them are right.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    total: NDArray[np.int64]
    correct: NDArray[np.int64]


def class_counts(labels: NDArray[np.int64], logits: NDArray[np.float32]) -> ClassCounts:
    """Count by class: labels [rows] with logits [rows, classes], or both with a length behind rows."""
    classes = logits.shape[-1]
    flat = labels.reshape(-1)
    counted = flat >= 0
    predicted = logits.reshape(-1, classes).argmax(axis=1)[counted]
    flat = flat[counted]
    return ClassCounts(
        flat,
        predicted,
        np.bincount(flat, minlength=classes),
        np.bincount(flat[predicted == flat], minlength=classes),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """How good heads are on some rows.

    Attributes:
        loss: Mean loss of what counts: rows, or tokens.
        accuracy: Share of them whose largest logit is their label's, 0 .. 1.
        count: How many count.
        class_correct: Int64 [labels], right ones of each class; [0] for tasks without labels.
        class_total: Int64 [labels], how many there are of each class.
        confusion: Int64 [labels, labels], counts by (label, prediction); None unless asked for.
    """

    loss: float
    accuracy: float
    count: int
    class_correct: NDArray[np.int64]
    class_total: NDArray[np.int64]
    confusion: NDArray[np.int64] | None = None


def evaluate(
    step: Step,
    method: Method,
    heads: Vector,
    dataset: Dataset,
    indices: NDArray[np.int64],
    *,
    batch_size: int,
    confusion: bool = False,
    on_rows: OnRows | None = None,
) -> Scores:
    """Loss and accuracy of heads.

    Rows are taken in ascending length, so batches hold little padding; the result is a function of
    the arguments.

    Args:
        step: An opened plan.
        method: What trains.
        heads: Float32 [parameters], folded.
        dataset: Where the rows are.
        indices: Int64 [rows], which ones; those without a label count nothing.
        batch_size: Rows at once.
        confusion: Whether to count (label, prediction) pairs, where the task has labels.
        on_rows: Told how far it is.

    Raises:
        DataError: No row has a label.
        NumericsError: The loss is NaN or infinite.
    """
    loss_sum, count, right, done = 0.0, 0, 0, 0
    correct = total = np.zeros(0, np.int64)
    pairs: NDArray[np.int64] | None = None
    for rows, batch, result in _batches(step, method, heads, dataset, indices, batch_size):
        if result.logits is not None:
            found = class_counts(batch.labels, result.logits)
            if not total.size:
                classes = len(found.total)
                correct, total = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
                pairs = np.zeros((classes, classes), np.int64) if confusion else None
            total += found.total
            correct += found.correct
            if pairs is not None:
                np.add.at(pairs, (found.labels, found.predicted), 1)
        loss_sum += result.loss_sum
        count += result.count
        right += int(result.metrics.get("correct", 0))
        done += len(rows)
        if on_rows is not None:
            on_rows(done, len(indices))
    if not count:
        raise DataError("no rows with a label to score", hint="name the column of labels")
    if not np.isfinite(loss_sum):
        raise NumericsError(
            f"the loss of these heads is {loss_sum}",
            hint="take an earlier version of the heads; training needs a lower --lr",
        )
    return Scores(
        loss=loss_sum / count,
        accuracy=(int(correct.sum()) if total.size else right) / count,
        count=count,
        class_correct=correct,
        class_total=total,
        confusion=pairs,
    )


def predict(
    step: Step, method: Method, heads: Vector, dataset: Dataset, *, batch_size: int
) -> NDArray[np.float64]:
    """Probabilities of each label, float64 [rows, labels], for all rows of a dataset in order.

    Args:
        step: An opened plan of a task that gives each row a label.
        method: What trains.
        heads: Float32 [parameters], folded.
        dataset: Rows; labels are not looked at.
        batch_size: Rows at once.

    Raises:
        NumericsError: A logit is NaN or infinite.
        ValueError: The task does not give each row a label.
    """
    everything = np.arange(len(dataset), dtype=np.int64)
    found: NDArray[np.float64] | None = None
    for rows, _, result in _batches(step, method, heads, dataset, everything, batch_size):
        if result.logits is None or result.logits.ndim != 2:
            raise ValueError("this task does not give each row a label")
        if found is None:
            found = np.empty((len(dataset), result.logits.shape[1]))
        found[rows] = _probabilities(result.logits)
    return np.empty((0, 0)) if found is None else found


def predict_tokens(
    step: Step, method: Method, heads: Vector, dataset: Dataset, *, batch_size: int
) -> list[NDArray[np.float64]]:
    """Probabilities of each label for the tokens of each row, float64 [tokens of the row, labels].

    Args:
        step: An opened plan of a task that gives each token a label.
        method: What trains.
        heads: Float32 [parameters], folded.
        dataset: Rows; labels are not looked at.
        batch_size: Rows at once.

    Raises:
        NumericsError: A logit is NaN or infinite.
        ValueError: The task does not give each token a label.
    """
    everything = np.arange(len(dataset), dtype=np.int64)
    lengths = dataset.lengths
    found: list[NDArray[np.float64]] = [np.empty((0, 0))] * len(dataset)
    for rows, _, result in _batches(step, method, heads, dataset, everything, batch_size):
        if result.logits is None or result.logits.ndim != 3:
            raise ValueError("this task does not give each token a label")
        for row, logits in zip(rows.tolist(), result.logits, strict=True):
            found[row] = _probabilities(logits[: lengths[row]])
    return found


def _probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    if not np.isfinite(logits).all():
        raise NumericsError(
            "a logit of these heads is NaN or infinite",
            hint="take an earlier version of the heads",
        )
    exact = logits.astype(np.float64)
    weights: NDArray[np.float64] = np.exp(exact - exact.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def _batches(
    step: Step,
    method: Method,
    heads: Vector,
    dataset: Dataset,
    indices: NDArray[np.int64],
    batch_size: int,
) -> Iterator[tuple[NDArray[np.int64], Batch, Evaluation]]:
    """Rows of each batch, int64 [rows], the batch, and what the step says about it."""
    # An empty choice trains nothing: heads that are zero need not run at all.
    training = method.training(heads, {})
    step.use_heads(training.running)
    trainables = method.to_graph(method.start_round(heads), training)
    order = indices[np.argsort(dataset.lengths[indices], kind="stable")]
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        batch = dataset.batch(rows)
        yield rows, batch, step.evaluate(batch.graph_inputs, trainables)
