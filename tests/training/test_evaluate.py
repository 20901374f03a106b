from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ravan_edge.data import TextRows, TokenisedDataset, collate
from ravan_edge.errors import DataError, NumericsError
from ravan_edge.training import Scores, evaluate, predict
from tests.training.linear_model import (
    LABELS,
    LAYER,
    LinearStep,
    dataset,
    random_heads,
    ravan_method,
)

METHOD = ravan_method()
DATA = dataset()
INPUTS = ("input_ids", "attention_mask")
ROWS = TextRows(DATA, 0, INPUTS)
HEADS = random_heads(METHOD, 7)


def scores(
    data: TokenisedDataset = DATA, rows: NDArray[np.int64] | None = None, batch_size: int = 7
) -> Scores:
    return evaluate(
        LinearStep(), METHOD, HEADS, TextRows(data, 0, INPUTS),
        np.arange(len(data)) if rows is None else rows,
        batch_size=batch_size, confusion=True,
    )  # fmt: skip


def one_by_one() -> tuple[list[float], NDArray[np.float32]]:
    step, everything = LinearStep(), METHOD.training(HEADS, None)
    losses, logits = [], []
    for row in range(len(DATA)):
        batch = collate(DATA, np.array([row]), 0, INPUTS)
        result = step.evaluate(
            {**batch.inputs, "labels": batch.labels}, METHOD.to_graph(HEADS, everything)
        )
        losses.append(result.loss_sum)
        logits.append(result.logits[0])
    return losses, np.array(logits)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_scores_are_those_of_the_rows_one_by_one(batch_size: int) -> None:
    losses, logits = one_by_one()
    found = scores(batch_size=batch_size)
    predicted = logits.argmax(axis=1)
    assert found.count == 60
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-6)
    assert found.accuracy == (predicted == DATA.labels).mean()
    assert found.confusion is not None
    for label in range(LABELS):
        mine = DATA.labels == label
        assert found.class_total[label] == mine.sum()
        assert found.class_correct[label] == (predicted[mine] == label).sum()
        for other in range(LABELS):
            assert found.confusion[label, other] == (predicted[mine] == other).sum()


def test_rows_without_a_label_count_nothing() -> None:
    labels = DATA.labels.copy()
    labels[::2] = -100
    some = TokenisedDataset(DATA.ids, DATA.offsets, labels, None, 8)
    found, odd = scores(some), scores(rows=np.arange(1, 60, 2))
    assert (found.count, found.accuracy) == (odd.count, odd.accuracy)
    assert found.loss == pytest.approx(odd.loss, rel=1e-6)
    none = TokenisedDataset(DATA.ids, DATA.offsets, np.full_like(labels, -100), None, 8)
    with pytest.raises(DataError, match="no rows with a label"):
        scores(none)


def test_probabilities_come_in_the_order_of_the_rows() -> None:
    _, logits = one_by_one()
    found = predict(LinearStep(), METHOD, HEADS, ROWS, batch_size=7)
    weights = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(found, weights / weights.sum(axis=1, keepdims=True), rtol=1e-5)


def test_only_heads_that_are_not_zero_run() -> None:
    heads = HEADS.copy()
    METHOD.layout.views(heads)[f"{LAYER}.H"][[0, 2]] = 0
    step = LinearStep()
    predict(step, METHOD, heads, ROWS, batch_size=7)
    assert step.running.tolist() == [1, 3]


def test_bad_heads_are_said_as_such() -> None:
    heads = HEADS.copy()
    heads[-1] = np.nan
    with pytest.raises(NumericsError, match="logit"):
        predict(LinearStep(), METHOD, heads, ROWS, batch_size=7)
    with pytest.raises(NumericsError, match="loss of these heads is nan"):
        evaluate(LinearStep(), METHOD, heads, ROWS, np.arange(60), batch_size=7)
