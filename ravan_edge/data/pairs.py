"""Pairs of texts, one read and one written: token ids of both, and batches for an encoder-decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravan_edge.data.batches import Batch, Draw, collate
from ravan_edge.data.dataset import NO_LABEL, TokenisedDataset
from ravan_edge.data.rows import Rows
from ravan_edge.data.tokenise import Progress, chunks, load_tokenizer, tokenise, tokenised
from ravan_edge.errors import DataError, UsageError

__all__ = ["PairRows", "tokenise_pairs"]

_SOURCE = ("input_ids", "attention_mask")
_TARGET = ("decoder_input_ids", "decoder_attention_mask")


def tokenise_pairs(
    rows: Rows,
    tokenizer: Path,
    *,
    max_length: int,
    end_id: int,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> tuple[TokenisedDataset, TokenisedDataset]:
    """Sources (``rows.texts``) and targets (``rows.labels``), each from the cache where it is there.

    Both are encoded as the tokenizer does it, special tokens included, and cut at ``max_length``
    tokens. A target that does not end with ``end_id`` gets it (as its last token, where it is
    cut): else a model would never learn to stop.

    Raises:
        DataError: A text or target without any token, or there are no targets.
        ArtifactError: The tokenizer file is refused.
        UsageError: ``max_length`` leaves no room for text.
        StorageError: The cache cannot be written.
    """
    if rows.labels is None:
        raise DataError("the rows have no targets", where=rows.source, hint="name their column")
    if max_length < 2:
        raise UsageError(
            f"--max-length is {max_length}, expected at least 2",
            hint="one token of text and the one that ends it",
        )
    targets = [str(target) for target in rows.labels]
    first, second = (None, None) if progress is None else _halves(progress)

    def make() -> TokenisedDataset:
        parts = _ended(rows, targets, tokenizer, max_length, end_id, second)
        return TokenisedDataset.of_rows(parts, max_length)

    sources = tokenise(
        rows, tokenizer, max_length=max_length, label_names=None, folder=folder, progress=first
    )
    content = {"kind": "targets", "max_length": max_length, "end_id": end_id}
    return sources, tokenised(rows, tokenizer, content, make, folder=folder, progress=second)


def _halves(progress: Progress) -> tuple[Progress, Progress]:
    """One count of rows for two passes over them."""

    def first(done: int, of: int) -> None:
        progress(done // 2, of)

    def second(done: int, of: int) -> None:
        progress((of + done) // 2, of)

    return first, second


def _ended(
    rows: Rows,
    targets: Sequence[str],
    tokenizer: Path,
    max_length: int,
    end_id: int,
    progress: Progress | None,
) -> list[NDArray[np.int32]]:
    """Token ids of targets, each int32 [tokens] with ``end_id`` last."""
    loaded = load_tokenizer(tokenizer, max_length)
    parts: list[NDArray[np.int32]] = []
    for chunk in chunks(targets):
        for encoding in loaded.encode_batch_fast(chunk):
            ids = encoding.ids
            if not ids or ids[-1] != end_id:
                ids = [*ids[: max_length - 1], end_id]
            if len(ids) < 2:
                raise DataError(
                    "a target without any token",
                    where=rows.where(len(parts)),
                    hint="remove such rows; the tokenizer knows nothing in them",
                )
            parts.append(np.array(ids, np.int32))
        if progress is not None:
            progress(len(parts), len(rows))
    return parts


@dataclass(frozen=True, slots=True, eq=False)
class PairRows:
    """Pairs of texts: the first enters the encoder, the second is learned token by token.

    Args:
        sources: Token ids of what is read; users are here.
        targets: Token ids of what is written, one row for each source.
        pad_id: Token id of padding.
        decoder_start_id: Token id that the decoder begins with.
        inputs: Batch inputs that the graphs take.
    """

    sources: TokenisedDataset
    targets: TokenisedDataset
    pad_id: int
    decoder_start_id: int
    inputs: Sequence[str] = (*_SOURCE, *_TARGET)

    @property
    def labels(self) -> NDArray[np.int32]:
        """``NO_LABEL`` for each row, int32 [rows]: only tokens have labels."""
        return self.sources.labels

    @property
    def users(self) -> NDArray[np.int32] | None:
        """The natural user of each row, int32 [rows], or None."""
        return self.sources.users

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, of both texts together, int64 [rows]."""
        return self.sources.lengths + self.targets.lengths

    def __len__(self) -> int:
        return len(self.sources)

    def batch(self, rows: NDArray[np.int64], draw: Draw | None = None) -> Batch:
        """Some rows as one batch; nothing is drawn.

        Sources are padded to their longest, targets to theirs. The decoder reads
        ``decoder_start_id`` and the target without its last token; labels int64
        [rows, target_length] are the target.
        """
        del draw
        known = (*_SOURCE, *_TARGET)
        for name in self.inputs:
            if name not in known:
                raise ValueError(f"graph input {name!r} cannot be made from pairs of texts")
        read = collate(self.sources, rows, self.pad_id, _SOURCE).inputs
        written = collate(self.targets, rows, self.pad_id, _SOURCE).inputs
        ids, mask = (written[name] for name in _SOURCE)
        start = np.full((len(rows), 1), self.decoder_start_id, np.int64)
        made = {
            **read,
            # Behind its end a row reads the end or padding: masked, and no label counts there.
            _TARGET[0]: np.concatenate([start, ids[:, :-1]], axis=1),
            _TARGET[1]: mask,
        }
        labels = np.where(mask == 1, ids, np.int64(NO_LABEL))
        return Batch({name: made[name] for name in self.inputs}, labels)
