"""Batches: padded arrays for a step, micro-batches, and their order in a local round."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravan_edge.data.dataset import TokenisedDataset
from ravan_edge.generator import Purpose, Stream

__all__ = ["Batch", "collate", "local_round_batches", "split_micro_batches"]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The graph inputs of one step that are data.

    Args:
        inputs: By their graph names (``input_ids``, ``attention_mask``), each int64 [rows, length],
            padded on the right.
        labels: int64 [rows]; -100: the row counts nothing.
    """

    inputs: Mapping[str, NDArray[np.int64]]
    labels: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.labels)

    @property
    def tokens(self) -> int:
        """How many tokens are no padding (all of them, where there is no attention mask)."""
        mask = self.inputs.get("attention_mask")
        if mask is not None:
            return int(mask.sum())
        return max((array.size for array in self.inputs.values()), default=0)


def collate(
    dataset: TokenisedDataset,
    indices: NDArray[np.int64],
    pad_id: int,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
) -> Batch:
    """Rows of a dataset as one batch, padded on the right to the longest of them.

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
    return Batch(arrays, dataset.labels[indices].astype(np.int64))


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
    order = np.arange(batch.rows)
    lengths = np.full(batch.rows, max(array.shape[1] for array in batch.inputs.values()))
    mask = batch.inputs.get("attention_mask")
    if mask is not None:
        # Up to the last token; a graph takes no empty rows, so all padding counts as one.
        lengths = np.maximum(mask.shape[1] - np.argmax(mask[:, ::-1] != 0, axis=1), 1)
        lengths[~mask.any(axis=1)] = 1
        order = np.argsort(-lengths, kind="stable")
    for begin in range(0, batch.rows, rows_per_micro_batch):
        rows = order[begin : begin + rows_per_micro_batch]
        length = lengths[rows[0]]
        arrays = {
            name: np.ascontiguousarray(array[rows, :length]) for name, array in batch.inputs.items()
        }
        yield Batch(arrays, batch.labels[rows])


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
