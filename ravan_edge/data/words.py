"""Words to token ids: the first token of each word carries its label."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from ravan_edge.data.dataset import NO_LABEL, TokenisedDataset
from ravan_edge.data.examples import TextRows
from ravan_edge.data.labels import encode_labels
from ravan_edge.data.tokenise import Progress, chunks, load_tokenizer, numbered, tokenised
from ravan_edge.data.word_rows import WordRows
from ravan_edge.errors import DataError

__all__ = ["WordTexts", "tokenise_word_texts", "tokenise_words"]

_NO_WORD = -1

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class WordTexts(TextRows):
    """Texts without labels that remember their words, to show a prediction for each.

    Args:
        words: Of each row.
        firsts: For each word of each row, the position of its first token; -1 where it has none (it
            is unknown to the tokenizer, or cut off).
    """

    words: Sequence[Sequence[str]] = ()
    firsts: Sequence[NDArray[np.int64]] = ()


def tokenise_words(
    rows: WordRows,
    tokenizer: Path,
    *,
    max_length: int,
    label_names: Sequence[str],
    folder: Path | None = None,
    progress: Progress | None = None,
) -> TokenisedDataset:
    """The dataset of a file of words, ``token_labels`` with it, from the cache where it is there.

    A word's label stands on its first token; its other tokens and special ones have ``NO_LABEL``.
    Rows of more than ``max_length`` tokens are cut, and what is cut off counts nothing.

    Raises:
        DataError: A label that the map does not have, or a row in which no token has a label.
        ArtifactError: The tokenizer file is refused.
        UsageError: ``max_length`` leaves no room for text.
        StorageError: The cache cannot be written.
    """

    def make() -> TokenisedDataset:
        labels = encode_labels(rows, label_names).astype(np.int32)
        loaded = _load(tokenizer, max_length)
        ids: list[Ids] = []
        token_labels: list[Ids] = []
        if progress is not None:
            progress(0, len(rows))
        row = 0
        for chunk in chunks(map(rows.row, range(len(rows))), _characters):
            for found, places in _encode(loaded, chunk):
                begin = int(rows.offsets[row])
                label = np.where(places < 0, np.int32(NO_LABEL), labels[begin + places])
                if (label == NO_LABEL).all():
                    raise DataError(
                        "a row in which no word has a token",
                        where=rows.where_row(row),
                        hint="remove such rows; the tokenizer knows nothing in them",
                    )
                ids.append(found)
                token_labels.append(label)
                row += 1
            if progress is not None:
                progress(row, len(rows))
        users = None if rows.users is None else numbered(rows.users)
        return TokenisedDataset.of_rows(
            ids, max_length, users=users, token_labels=np.concatenate(token_labels)
        )

    content = {"kind": "words", "max_length": max_length, "labels": list(label_names)}
    return tokenised(rows, tokenizer, content, make, folder=folder, progress=progress)


def tokenise_word_texts(
    texts: Sequence[str],
    tokenizer: Path,
    *,
    max_length: int,
    pad_id: int,
    inputs: Sequence[str],
) -> WordTexts:
    """Texts, cut at white space, as rows without labels and without the cache.

    Raises:
        DataError: A text without any token.
        ArtifactError: The tokenizer file is refused.
        UsageError: ``max_length`` leaves no room for text.
    """
    words = [text.split() for text in texts]
    loaded = _load(tokenizer, max_length)
    ids: list[Ids] = []
    firsts: list[NDArray[np.int64]] = []
    encoded = (pair for chunk in chunks(words, _characters) for pair in _encode(loaded, chunk))
    for number, (row, (found, places)) in enumerate(zip(words, encoded, strict=True), start=1):
        where = f"text {number}"
        if not row:
            raise DataError("an empty text", where=where, hint="write a text")
        first = np.full(len(row), _NO_WORD, np.int64)
        positions = np.flatnonzero(places >= 0)
        first[places[positions]] = positions
        if not len(positions):
            raise DataError("a text without any token", where=where, hint="write another text")
        ids.append(found)
        firsts.append(first)
    none = np.full(sum(map(len, ids)), NO_LABEL, np.int32)
    tokens = TokenisedDataset.of_rows(ids, max_length, token_labels=none)
    return WordTexts(tokens, pad_id, inputs, words, firsts)


def _encode(
    loaded: tokenizers.Tokenizer, chunk: list[list[str]]
) -> Iterator[tuple[Ids, NDArray[np.int64]]]:
    """Ids int32 [tokens] of each row; int64 [tokens] which word begins at a token, -1 for none."""
    # Not encode_batch_fast: it does not say which word a token is of.
    for encoding in loaded.encode_batch(chunk, is_pretokenized=True):
        word = np.array([_NO_WORD if w is None else w for w in encoding.word_ids], np.int64)
        before = np.concatenate([[_NO_WORD], word[:-1]])
        yield np.array(encoding.ids, np.int32), np.where(word != before, word, _NO_WORD)


def _load(tokenizer: Path, max_length: int) -> tokenizers.Tokenizer:
    """The tokenizer; where words begin with their space (RoBERTa), each word gets it.

    The first word of a text has no space before it there, and words that come one by one would all
    look like that. ``add_prefix_space=True`` of transformers does the same.
    """
    loaded = load_tokenizer(tokenizer, max_length)
    state = json.loads(loaded.to_str())
    if not _prefix_spaces(state.get("pre_tokenizer")):
        return loaded
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def _prefix_spaces(step: dict[str, Any] | None) -> bool:
    """Make byte-level steps add a space in front; whether any had to be changed."""
    if step is None:
        return False
    changed = step.get("type") == "ByteLevel" and not step.get("add_prefix_space")
    if changed:
        step["add_prefix_space"] = True
    inner = [_prefix_spaces(part) for part in step.get("pretokenizers", ())]
    return changed or any(inner)


def _characters(words: list[str]) -> int:
    return sum(map(len, words))
