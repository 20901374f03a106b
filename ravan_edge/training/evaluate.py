"""Scoring heads on labelled rows, and predicting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravan_edge.data import TokenisedDataset, collate
from ravan_edge.errors import DataError, NumericsError
from ravan_edge.methods import Method, Vector
from ravan_edge.plans.step import Evaluation, Step

__all__ = ["OnRows", "Scores", "evaluate", "predict"]

OnRows = Callable[[int, int], None]
"""Called with the rows done and the rows in all."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """How good heads are on some rows.

    Attributes:
        loss: Mean loss.
        accuracy: Share of rows whose largest logit is their label's, 0 .. 1.
        count: Rows with a label.
        class_correct: Int64 [labels], right ones of each class.
        class_total: Int64 [labels], rows of each class.
        confusion: Int64 [labels, labels], rows by (label, prediction); None unless asked for.
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
    dataset: TokenisedDataset,
    indices: NDArray[np.int64],
    *,
    batch_size: int,
    pad_id: int,
    inputs: Sequence[str],
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
        pad_id: Token id of padding.
        inputs: Batch inputs the graphs take.
        confusion: Whether to count (label, prediction) pairs.
        on_rows: Told how far it is.

    Raises:
        DataError: No row has a label.
        NumericsError: The loss is NaN or infinite.
    """
    loss_sum, count = 0.0, 0
    correct = total = np.zeros(0, np.int64)
    pairs: NDArray[np.int64] | None = None
    done = 0
    for rows, result in _batches(step, method, heads, dataset, indices, batch_size, pad_id, inputs):
        labels = dataset.labels[rows].astype(np.int64)
        classes = result.logits.shape[1]
        if not total.size:
            correct, total = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
            pairs = np.zeros((classes, classes), np.int64) if confusion else None
        with_label = labels >= 0
        labels = labels[with_label]
        predicted = result.logits.argmax(axis=1)[with_label]
        total += np.bincount(labels, minlength=classes)
        correct += np.bincount(labels[predicted == labels], minlength=classes)
        if pairs is not None:
            np.add.at(pairs, (labels, predicted), 1)
        loss_sum += result.loss_sum
        count += result.count
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
        accuracy=int(correct.sum()) / count,
        count=count,
        class_correct=correct,
        class_total=total,
        confusion=pairs,
    )


def predict(
    step: Step,
    method: Method,
    heads: Vector,
    dataset: TokenisedDataset,
    *,
    batch_size: int,
    pad_id: int,
    inputs: Sequence[str],
) -> NDArray[np.float64]:
    """Probabilities of each label, float64 [rows, labels], for all rows of a dataset in order.

    Args:
        step: An opened plan.
        method: What trains.
        heads: Float32 [parameters], folded.
        dataset: Texts; labels are not looked at.
        batch_size: Rows at once.
        pad_id: Token id of padding.
        inputs: Batch inputs the graphs take.

    Raises:
        NumericsError: A logit is NaN or infinite.
    """
    everything = np.arange(len(dataset), dtype=np.int64)
    found: NDArray[np.float64] | None = None
    for rows, result in _batches(
        step, method, heads, dataset, everything, batch_size, pad_id, inputs
    ):
        if not np.isfinite(result.logits).all():
            raise NumericsError(
                "a logit of these heads is NaN or infinite",
                hint="take an earlier version of the heads",
            )
        logits = result.logits.astype(np.float64)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        if found is None:
            found = np.empty((len(dataset), logits.shape[1]))
        found[rows] = weights / weights.sum(axis=1, keepdims=True)
    return np.empty((0, 0)) if found is None else found


def _batches(
    step: Step,
    method: Method,
    heads: Vector,
    dataset: TokenisedDataset,
    indices: NDArray[np.int64],
    batch_size: int,
    pad_id: int,
    inputs: Sequence[str],
) -> Iterator[tuple[NDArray[np.int64], Evaluation]]:
    """Rows of each batch, int64 [rows], and what the step says about them."""
    # An empty choice trains nothing: heads that are zero need not run at all.
    training = method.training(heads, {})
    step.use_heads(training.running)
    trainables = method.to_graph(method.start_round(heads), training)
    lengths = dataset.offsets[indices + 1] - dataset.offsets[indices]
    order = indices[np.argsort(lengths, kind="stable")]
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        batch = collate(dataset, rows, pad_id, inputs)
        yield rows, step.evaluate({**batch.inputs, "labels": batch.labels}, trainables)
