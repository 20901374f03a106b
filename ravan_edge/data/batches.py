"""Batches: padded arrays for a step, micro-batches, and their order in a local round."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ravan_edge.data.dataset import NO_LABEL, TokenisedDataset
from ravan_edge.generator import Purpose, Stream

__all__ = ["Batch", "Draw", "collate", "local_round_batches", "split_micro_batches"]

_DECODER = "decoder_"
_MASK = "attention_mask"


class Draw(NamedTuple):
    """The address of a training step, for data that are drawn anew in each (masked tokens)."""

    seed: int
    round: int
    device: int
    step: int


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The graph inputs of one step that are data.

    Args:
        inputs: By their graph names: token ids and masks are int64 [rows, length], padded on the
            right; ``pixel_values`` is float32 [rows, channels, height, width].
        labels: int64 [rows] or [rows, length]; -100: the row or token counts nothing.
        row_tokens: The model's tokens of a row, for inputs without a mask that says it.
    """

    inputs: Mapping[str, NDArray[Any]]
    labels: NDArray[np.int64]
    row_tokens: int | None = None

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.labels)

    @property
    def tokens(self) -> int:
        """How many tokens are no padding (all of them, where there is no attention mask)."""
        masks = [array for name, array in self.inputs.items() if name.endswith(_MASK)]
        if masks:
            return sum(int(mask.sum()) for mask in masks)
        if self.row_tokens is not None:
            return self.rows * self.row_tokens
        return max((array.size for array in self.inputs.values()), default=0)

    @property
    def graph_inputs(self) -> dict[str, NDArray[Any]]:
        """What a step takes: the inputs and ``labels``."""
        return {**self.inputs, "labels": self.labels}


def collate(
    dataset: TokenisedDataset,
    indices: NDArray[np.int64],
    pad_id: int,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
) -> Batch:
    """Rows of a dataset as one batch, padded on the right to the longest of them.

    Labels are [rows], or [rows, length] where the dataset has one for each token.

    Args:
        dataset: Where the rows are.
        indices: int64 [rows], at least one.
        pad_id: The token id of padding.
        inputs: Which graph inputs to make.

    Raises:
        ValueError: No rows, or an input that texts do not have.
    """
    if not len(indices):
        raise ValueError("a batch needs at least one row")
    starts = dataset.offsets[indices]
    lengths = dataset.offsets[indices + 1] - starts
    positions = np.arange(lengths.max())
    present = positions < lengths[:, None]
    arrays: dict[str, NDArray[np.int64]] = {}
    for name in inputs:
        if name == "input_ids":
            # Positions behind a row's end read the next row, or are clipped at the end of all.
            ids = dataset.ids.take(starts[:, None] + positions, mode="clip")
            arrays[name] = np.where(present, ids, np.int64(pad_id))
        elif name == "attention_mask":
            arrays[name] = present.astype(np.int64)
        else:
            raise ValueError(f"graph input {name!r} cannot be made from texts")
    if dataset.token_labels is None:
        return Batch(arrays, dataset.labels[indices].astype(np.int64))
    found = dataset.token_labels.take(starts[:, None] + positions, mode="clip")
    return Batch(arrays, np.where(present, found, np.int64(NO_LABEL)))


def split_micro_batches(batch: Batch, rows_per_micro_batch: int) -> Iterator[Batch]:
    """A batch in pieces of at most so many rows, each cut to its own longest row.

    Losses and gradients of the pieces are sums, so they add up to those of the whole, in whatever
    order the rows come: longest rows first (equal ones as they were), so that neighbours are alike
    and little is padding, and the first piece is the one that needs most memory. Without an
    attention mask padding cannot be told from text: the pieces then keep order and length.

    Raises:
        ValueError: ``rows_per_micro_batch`` is below 1.
    """
    if rows_per_micro_batch < 1:
        raise ValueError(f"rows_per_micro_batch is {rows_per_micro_batch}, expected at least 1")
    return _pieces(batch, rows_per_micro_batch)


def _pieces(batch: Batch, rows_per_micro_batch: int) -> Iterator[Batch]:
    lengths = {
        name.removesuffix(_MASK): _used(mask)
        for name, mask in batch.inputs.items()
        if name.endswith(_MASK)
    }
    order = np.arange(batch.rows)
    if lengths:
        order = np.argsort(-sum(lengths.values()), kind="stable")
    for begin in range(0, batch.rows, rows_per_micro_batch):
        rows = order[begin : begin + rows_per_micro_batch]
        longest = {side: int(used[rows].max()) for side, used in lengths.items()}
        arrays = {
            name: _cut(array[rows], longest.get(_side(name)))
            for name, array in batch.inputs.items()
        }
        labels = batch.labels[rows]
        if labels.ndim > 1:  # of tokens: of those that are written, where some are read
            labels = _cut(labels, longest.get(_DECODER, longest.get("")))
        yield Batch(arrays, labels, batch.row_tokens)


def _used(mask: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of each row up to its last token; 1 for a row without any (graphs take no less)."""
    used = mask.shape[1] - np.argmax(mask[:, ::-1] != 0, axis=1)
    return np.where(mask.any(axis=1), used, 1)


def _side(name: str) -> str:
    return _DECODER if name.startswith(_DECODER) else ""


def _cut(array: NDArray[Any], length: int | None) -> NDArray[Any]:
    return np.ascontiguousarray(array if length is None else array[:, :length])


def local_round_batches(
    example_indices: NDArray[np.int64],
    *,
    seed: int,
    round: int,
    device: int,
    batch_size: int,
    steps: int,
) -> Iterator[NDArray[np.int64]]:
    """The mini-batches of one device's local round, as docs/generator.md says bit by bit.

    Pass p over the E examples is permutation(E) of purpose 2, index p, cut into batches of
    ``batch_size``; the short last one of a pass is kept. A round is the first ``steps`` batches of
    pass 0, 1, 2, ... one behind the other.

    Args:
        example_indices: int64 [E], the device's rows in the dataset.
        seed: The run's seed.
        round: The round, from 0.
        device: The device's number.
        batch_size: Rows of a mini-batch.
        steps: How many mini-batches.

    Yields:
        int64 [rows], 1 <= rows <= batch_size: rows of the dataset.

    Raises:
        ValueError: No examples, or a number that is out of range.
    """
    if batch_size < 1 or steps < 0:
        raise ValueError(f"batch_size {batch_size} and steps {steps}, expected at least 1 and 0")
    if not len(example_indices) and steps:
        raise ValueError(f"device {device} has no examples: it cannot train")

    def passes() -> Iterator[NDArray[np.int64]]:
        for number in itertools.count():
            stream = Stream(seed, Purpose.SHUFFLE, round=round, device=device, index=number)
            order = example_indices[stream.permutation(len(example_indices))]
            for begin in range(0, len(order), batch_size):
                yield order[begin : begin + batch_size]

    return itertools.islice(passes(), steps)
