"""Texts to token ids for next-token training: blocks of plain text, or prompts with answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from ravan_edge.artifact.manifest import PromptFormat
from ravan_edge.data.dataset import NO_LABEL, TokenisedDataset
from ravan_edge.data.rows import Rows
from ravan_edge.data.tokenise import Progress, chunks, load_tokenizer, numbered, tokenised
from ravan_edge.errors import DataError, UsageError

__all__ = ["tokenise_answers", "tokenise_language"]

_PLAIN = ("", "\n", "")

Ids = NDArray[np.int32]


def tokenise_language(
    rows: Rows,
    tokenizer: Path,
    *,
    max_length: int,
    end_id: int,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> TokenisedDataset:
    """Whole texts in blocks of at most ``max_length`` tokens; every token but the first is learned.

    A text ends with ``end_id``. A block begins with the last token of the block before it, so that
    each token is predicted exactly once. Users stay with all their blocks.

    Raises:
        DataError: A text without any token.
        ArtifactError: The tokenizer file is refused.
        UsageError: ``max_length`` is below 2.
        StorageError: The cache cannot be written.
    """
    _check_length(max_length)

    def make() -> TokenisedDataset:
        loaded = load_tokenizer(tokenizer, None)
        blocks: list[Ids] = []
        owners: list[int] = []
        done = 0
        for chunk in chunks(rows.texts):
            for number, encoding in enumerate(loaded.encode_batch_fast(chunk), start=done):
                ids = _ended(encoding.ids, end_id)
                _refuse_empty(ids[:-1], rows, number)
                for block in _blocks(ids, max_length):
                    blocks.append(block)
                    owners.append(number)
            done += len(chunk)
            if progress is not None:
                progress(done, len(rows))
        users = _users(rows, owners)
        return TokenisedDataset.of_rows(blocks, max_length, users=users)

    content = {"kind": "language", "max_length": max_length, "end_id": end_id}
    return tokenised(rows, tokenizer, content, make, folder=folder, progress=progress)


def tokenise_answers(
    rows: Rows,
    tokenizer: Path,
    *,
    max_length: int,
    end_id: int,
    template: PromptFormat | None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> TokenisedDataset:
    """Prompts (``rows.texts``) with their answers (``rows.labels``); only the answer is learned.

    ``template`` says what stands around them, special tokens written out; without one a line end
    stands between them, the tokenizer adds its own special tokens, and ``end_id`` ends the row. A
    row longer than ``max_length`` is cut at its end. One whose answer is cut off altogether is left
    out.

    Raises:
        DataError: No answer is left, or there are none.
        ArtifactError: The tokenizer file is refused.
        UsageError: ``max_length`` is below 2.
        StorageError: The cache cannot be written.
    """
    _check_length(max_length)
    if rows.labels is None:
        raise DataError("the rows have no answers", where=rows.source, hint="name their column")
    answers = [str(answer) for answer in rows.labels]
    words = _PLAIN if template is None else (template.before, template.between, template.after)

    def make() -> TokenisedDataset:
        loaded = load_tokenizer(tokenizer, None)
        kept: list[Ids] = []
        labels: list[Ids] = []
        owners: list[int] = []
        before, between, after = words
        prefixes = [f"{before}{prompt}{between}" for prompt in rows.texts]
        whole = [
            f"{prefix}{answer}{after}" for prefix, answer in zip(prefixes, answers, strict=True)
        ]
        done = 0
        for chunk in chunks(whole):
            encoded = loaded.encode_batch(chunk, add_special_tokens=template is None)
            for number, encoding in enumerate(encoded, start=done):
                ids = np.array(encoding.ids, np.int32)
                learned = _behind(encoding, len(prefixes[number]))
                if template is None and (not len(ids) or ids[-1] != end_id):
                    ids, learned = np.append(ids, np.int32(end_id)), np.append(learned, True)
                ids, learned = ids[:max_length], learned[:max_length]
                if learned[1:].any():
                    kept.append(ids)
                    labels.append(np.where(learned, ids, np.int32(NO_LABEL)))
                    owners.append(number)
            done += len(chunk)
            if progress is not None:
                progress(done, len(rows))
        if not kept:
            raise DataError(
                f"no answer is left within {max_length} tokens",
                where=rows.source,
                hint="use a longer --max-length, or shorter prompts",
            )
        return TokenisedDataset.of_rows(
            kept, max_length, users=_users(rows, owners), token_labels=np.concatenate(labels)
        )

    content = {
        "kind": "answers",
        "max_length": max_length,
        "end_id": end_id,
        "words": [*words, template is not None],
    }
    return tokenised(rows, tokenizer, content, make, folder=folder, progress=progress)


def _check_length(max_length: int) -> None:
    if max_length < 2:
        raise UsageError(
            f"--max-length is {max_length}, expected at least 2",
            hint="a token is learned from those before it",
        )


def _ended(ids: list[int], end_id: int) -> Ids:
    ended = ids if ids and ids[-1] == end_id else [*ids, end_id]
    return np.array(ended, np.int32)


def _refuse_empty(ids: Ids, rows: Rows, number: int) -> None:
    if not len(ids):
        raise DataError(
            "a text without any token",
            where=rows.where(number),
            hint="remove such rows; the tokenizer knows nothing in them",
        )


def _blocks(ids: Ids, max_length: int) -> Iterator[Ids]:
    step = max_length - 1
    for begin in range(0, max(len(ids) - 1, 1), step):
        yield ids[begin : begin + max_length]


def _behind(encoding: tokenizers.Encoding, characters: int) -> NDArray[np.bool_]:
    """Which tokens hold a character behind that many, or stand behind such a token."""
    ends = np.array([end for _, end in encoding.offsets], np.int64)
    return np.maximum.accumulate(ends) > characters if len(ends) else np.zeros(0, np.bool_)


def _users(rows: Rows, owners: list[int]) -> Ids | None:
    """The user of each made row, given the row of the file that it is from."""
    return None if rows.users is None else numbered(rows.users)[np.array(owners)]
