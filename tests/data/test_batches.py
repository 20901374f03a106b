"""Padding, micro-batches and the order of examples."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravan_edge.data import (
    Batch,
    TokenisedDataset,
    collate,
    local_round_batches,
    split_micro_batches,
)
from ravan_edge.generator import Purpose, Stream


def dataset_of(rows: list[list[int]], labels: list[int] | None = None) -> TokenisedDataset:
    return TokenisedDataset(
        ids=np.array([token for row in rows for token in row], dtype=np.int32),
        offsets=np.cumsum([0, *map(len, rows)], dtype=np.int64),
        labels=np.array(labels or [0] * len(rows), dtype=np.int32),
        users=None,
        max_length=16,
    )


token_rows = st.lists(
    st.lists(st.integers(1, 30_000), min_size=1, max_size=16), min_size=1, max_size=12
)


@given(rows=token_rows, data=st.data())
def test_collate_pads_to_the_longest_row(rows: list[list[int]], data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=20))
    dataset = dataset_of(rows, list(range(len(rows))))
    batch = collate(dataset, np.array(indices), pad_id=0)
    length = max(len(rows[index]) for index in indices)
    expected = [rows[index] + [0] * (length - len(rows[index])) for index in indices]
    assert batch.inputs["input_ids"].tolist() == expected
    mask = [[1] * len(rows[index]) + [0] * (length - len(rows[index])) for index in indices]
    assert batch.inputs["attention_mask"].tolist() == mask
    assert batch.labels.tolist() == indices
    assert {array.dtype for array in (*batch.inputs.values(), batch.labels)} == {np.dtype(np.int64)}
    assert batch.rows == len(indices)
    assert batch.tokens == sum(len(rows[index]) for index in indices)


@given(rows=token_rows, size=st.integers(1, 14))
def test_micro_batches_are_the_batch_in_pieces(rows: list[list[int]], size: int) -> None:
    dataset = dataset_of(rows, list(range(len(rows))))
    order = np.array(sorted(range(len(rows)), key=lambda row: -len(rows[row])))
    pieces = list(split_micro_batches(collate(dataset, np.arange(len(rows)), 0), size))
    assert len(pieces) == -(-len(rows) // size)
    for number, piece in enumerate(pieces):
        expected = collate(dataset, order[number * size : (number + 1) * size], 0)
        assert piece.labels.tolist() == expected.labels.tolist()
        for name, array in expected.inputs.items():
            assert piece.inputs[name].tolist() == array.tolist()
            assert piece.inputs[name].flags.c_contiguous


def test_micro_batches_of_rows_that_are_all_padding() -> None:
    zeros = np.zeros((2, 3), dtype=np.int64)
    batch = Batch({"input_ids": zeros, "attention_mask": zeros}, np.array([-100, -100]))
    assert [piece.inputs["input_ids"].shape for piece in split_micro_batches(batch, 1)] == [
        (1, 1)
    ] * 2
    assert batch.tokens == 0


def test_without_a_mask_the_length_stays() -> None:
    batch = collate(dataset_of([[1], [2, 3]]), np.array([0, 1]), 0, inputs=["input_ids"])
    assert batch.tokens == 4
    assert [piece.inputs["input_ids"].shape for piece in split_micro_batches(batch, 1)] == [
        (1, 2)
    ] * 2


def test_arguments_that_make_no_sense() -> None:
    dataset = dataset_of([[1]])
    with pytest.raises(ValueError, match="at least one row"):
        collate(dataset, np.array([], dtype=np.int64), 0)
    with pytest.raises(ValueError, match="token_type_ids"):
        collate(dataset, np.array([0]), 0, inputs=["token_type_ids"])
    with pytest.raises(ValueError, match="rows_per_micro_batch"):
        split_micro_batches(collate(dataset, np.array([0]), 0), 0)
    settings = {"seed": 0, "round": 0, "device": 3}
    with pytest.raises(ValueError, match="batch_size"):
        local_round_batches(np.arange(3), **settings, batch_size=0, steps=1)
    with pytest.raises(ValueError, match="device 3 has no examples"):
        local_round_batches(np.arange(0), **settings, batch_size=1, steps=1)
    assert not list(local_round_batches(np.arange(0), **settings, batch_size=1, steps=0))


def slow_round_batches(streams: Iterator[Stream], examples: int, size: int) -> Iterator[list[int]]:
    """The slow twin: docs/generator.md, "Batches of a local round", word for word."""
    for stream in streams:
        order = stream.permutation(examples).tolist()
        while order:
            yield order[:size]
            order = order[size:]


words = st.integers(0, 2**32 - 1)


@given(
    address=st.tuples(st.integers(0, 2**64 - 1), words, words),
    examples=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    steps=st.integers(0, 30),
)
def test_local_round_batches_follow_the_specification(
    address: tuple[int, int, int], examples: int, batch_size: int, steps: int
) -> None:
    seed, round_, device = address
    rows = np.arange(examples) * 3 + 100
    batches = list(
        local_round_batches(
            rows, seed=seed, round=round_, device=device, batch_size=batch_size, steps=steps
        )
    )
    streams = (Stream(seed, Purpose.SHUFFLE, round_, device, index) for index in itertools.count())
    expected = itertools.islice(slow_round_batches(streams, examples, batch_size), steps)
    assert [((batch - 100) // 3).tolist() for batch in batches] == list(expected)
    # Each whole pass covers every example once.
    per_pass = -(-examples // batch_size)
    for begin in range(0, steps - per_pass + 1, per_pass):
        seen = np.concatenate(batches[begin : begin + per_pass])
        assert sorted(seen.tolist()) == rows.tolist()


def test_the_batches_of_the_published_vector() -> None:
    batches = local_round_batches(np.arange(5), seed=7, round=0, device=0, batch_size=2, steps=3)
    assert [batch.tolist() for batch in batches] == [[2, 4], [0, 3], [1]]
