"""Rows whose tokens are labels themselves: next tokens, and masked ones."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ravan_edge.data.batches import Batch, Draw, collate
from ravan_edge.data.dataset import NO_LABEL
from ravan_edge.data.examples import TextRows
from ravan_edge.generator import Purpose, Stream

__all__ = ["MaskedRows", "NextTokenRows"]

_WORDS = 3  # of a token: whether it is chosen, what becomes of it, which token it becomes
_CHOSEN = int(0.15 * 2**32)
_MASKED = int(0.8 * 2**32)
_RANDOM = int(0.9 * 2**32)


@dataclass(frozen=True, slots=True, eq=False)
class NextTokenRows(TextRows):
    """Texts whose labels are their own token ids; only an answer's, where there are prompts."""

    def batch(self, rows: NDArray[np.int64], draw: Draw | None = None) -> Batch:
        """Some rows as one batch, labels int64 [rows, length]; nothing is drawn."""
        del draw
        tokens = self.tokens
        if tokens.token_labels is None:
            tokens = replace(tokens, token_labels=tokens.ids)
        return collate(tokens, rows, self.pad_id, self.inputs)


@dataclass(frozen=True, slots=True, eq=False)
class MaskedRows(TextRows):
    """Texts with some tokens masked, which are the labels (Devlin et al., BERT, 2019, appendix A.1).

    Of a text's tokens that are not special, each is chosen with probability 15 %; where that
    chooses none, the one with the smallest number is. A chosen one becomes ``mask_id`` (80 %), any
    token id (10 %), or stays (10 %). Drawn anew in each training step; in scoring a row is always
    masked alike (docs/generator.md, "Masked tokens").

    Args:
        mask_id: The mask token.
        vocabulary: Number of token ids.
        special_ids: Tokens that are never masked.
    """

    mask_id: int = field(kw_only=True)
    vocabulary: int = field(kw_only=True)
    special_ids: tuple[int, ...] = field(kw_only=True, default=())

    def batch(self, rows: NDArray[np.int64], draw: Draw | None = None) -> Batch:
        """Some rows as one batch, labels int64 [rows, length]: the ids of masked tokens."""
        plain = collate(self.tokens, rows, self.pad_id, self.inputs)
        ids = plain.inputs["input_ids"]
        offsets = self.tokens.offsets
        lengths = offsets[rows + 1] - offsets[rows]
        present = np.arange(ids.shape[1]) < lengths[:, None]
        words = np.zeros((*ids.shape, _WORDS), np.uint64)
        words[present] = self._words(rows, lengths, draw)
        open_ = present & ~np.isin(ids, self.special_ids)
        chosen = open_ & (words[..., 0] < _CHOSEN)
        none = np.flatnonzero(open_.any(axis=1) & ~chosen.any(axis=1))
        if none.size:
            smallest = np.where(open_[none], words[none, :, 0], np.uint64(1 << 32)).argmin(axis=1)
            chosen[none, smallest] = True
        other = ((words[..., 2] * np.uint64(self.vocabulary)) >> np.uint64(32)).astype(np.int64)
        kind = words[..., 1]
        changed = np.where(kind < _MASKED, self.mask_id, np.where(kind < _RANDOM, other, ids))
        masked = np.where(chosen, changed, ids)
        labels = np.where(chosen, ids, np.int64(NO_LABEL))
        return Batch({**plain.inputs, "input_ids": masked}, labels)

    def _words(
        self, rows: NDArray[np.int64], lengths: NDArray[np.int64], draw: Draw | None
    ) -> NDArray[np.uint64]:
        """Random words of all tokens, row by row, uint64 [tokens, 3], each below 2^32."""
        if draw is not None:
            stream = Stream(
                draw.seed, Purpose.MASKING, round=draw.round, device=draw.device, index=draw.step
            )
            found = stream.words(int(lengths.sum()) * _WORDS)
        else:
            found = np.concatenate(
                [
                    Stream(0, Purpose.MASKING, index=int(row)).words(int(length) * _WORDS)
                    for row, length in zip(rows, lengths, strict=True)
                ]
            )
        return found.astype(np.uint64).reshape(-1, _WORDS)
