"""What training and scoring read: rows that become batches, whatever they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ravan_edge.data.batches import Batch, Draw, collate
from ravan_edge.data.dataset import TokenisedDataset

__all__ = ["Dataset", "TextRows"]


class Dataset(Protocol):
    """Rows of one data file, ready to compute with. Pickled small: workers map the same pages."""

    @property
    def labels(self) -> NDArray[np.int32]:
        """The label of each row, int32 [rows]; ``NO_LABEL`` where a row has none."""
        ...

    @property
    def users(self) -> NDArray[np.int32] | None:
        """The natural user of each row, int32 [rows], or None."""
        ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The model's tokens of each row, int64 [rows]: what a row costs."""
        ...

    def __len__(self) -> int: ...

    def batch(self, rows: NDArray[np.int64], draw: Draw | None = None) -> Batch:
        """Some rows as one batch.

        Args:
            rows: int64 [rows], at least one.
            draw: The training step, where data are drawn anew in each; None for scoring: then a row
                is always the same.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TextRows:
    """Texts as token ids, padded on the right.

    Args:
        tokens: The tokenised file.
        pad_id: Token id of padding.
        inputs: Batch inputs that the graphs take.
    """

    tokens: TokenisedDataset
    pad_id: int
    inputs: Sequence[str] = ("input_ids", "attention_mask")

    @property
    def labels(self) -> NDArray[np.int32]:
        """The label of each row, int32 [rows]."""
        return self.tokens.labels

    @property
    def users(self) -> NDArray[np.int32] | None:
        """The natural user of each row, int32 [rows], or None."""
        return self.tokens.users

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, int64 [rows]."""
        return self.tokens.lengths

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, rows: NDArray[np.int64], draw: Draw | None = None) -> Batch:
        """Some rows as one batch; nothing is drawn."""
        del draw
        return collate(self.tokens, rows, self.pad_id, self.inputs)
