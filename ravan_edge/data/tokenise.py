"""Texts to token ids with the artifact's own ``tokenizer.json``, once per file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import TypeVar

import numpy as np
import platformdirs
import tokenizers
from numpy.typing import NDArray

from ravan_edge.data.dataset import (
    FORMAT_VERSION,
    NO_LABEL,
    TokenisedDataset,
    open_dataset,
    write_dataset,
)
from ravan_edge.data.labels import encode_labels
from ravan_edge.data.rows import Rows
from ravan_edge.errors import ArtifactError, DataError, UsageError
from ravan_edge.files import sha256_file, storage_errors

__all__ = [
    "CACHE_VARIABLE",
    "Progress",
    "cache_folder",
    "chunks",
    "load_tokenizer",
    "numbered",
    "tokenise",
    "tokenise_texts",
    "tokenised",
]

CACHE_VARIABLE = "RAVAN_CACHE_DIR"

Row = TypeVar("Row", bound=Sized)

Progress = Callable[[int, int], None]
"""Called with the rows done and the rows in all."""

# A chunk's encodings are many times as large as its texts: bound both rows and characters.
_CHUNK_ROWS = 1024
_CHUNK_CHARACTERS = 1 << 22


def cache_folder() -> Path:
    """Where token files are kept: ``RAVAN_CACHE_DIR``, or the user's cache folder.

    Everything in it may be removed while nothing runs.
    """
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(platformdirs.user_cache_dir("ravan-edge", False))


def tokenise(
    rows: Rows,
    tokenizer: Path,
    *,
    max_length: int,
    label_names: Sequence[str] | None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> TokenisedDataset:
    """The dataset of a data file, from the cache where it is there.

    A cache file is named by a digest of all that its content depends on: the data file, tokenizer,
    columns, label map and length. It is written as temporary file + rename, so processes that want
    the same one at once do the work twice and nothing worse; a broken one is made again.

    Args:
        rows: What a reader returned.
        tokenizer: The artifact's ``tokenizer.json``.
        max_length: The most tokens of a row, special tokens included; longer texts are cut.
        label_names: The artifact's label map; None: rows get ``NO_LABEL``.
        folder: The cache; None: :func:`cache_folder`.
        progress: Told how many rows are done.

    Raises:
        DataError: A label that the map does not have, or a text without any token.
        ArtifactError: The tokenizer file is refused.
        UsageError: ``max_length`` leaves no room for text.
        StorageError: The cache cannot be written.
    """

    def make() -> TokenisedDataset:
        # Labels first: they are quick, and the more likely to be refused.
        labels = np.full(len(rows), NO_LABEL, dtype=np.int32)
        if label_names is not None:
            labels[:] = encode_labels(rows, label_names)
        ids, offsets = _encode(rows.texts, tokenizer, max_length, progress)
        empty = np.flatnonzero(np.diff(offsets) == 0)
        if empty.size:
            raise DataError(
                f"{empty.size} texts without any token",
                where=rows.where(int(empty[0])),
                hint="remove such rows; the tokenizer knows nothing in them",
            )
        users = None if rows.users is None else numbered(rows.users)
        return TokenisedDataset(ids, offsets, labels, users, max_length)

    names = None if label_names is None else list(label_names)
    content = {"max_length": max_length, "labels": names}
    return tokenised(rows, tokenizer, content, make, folder=folder, progress=progress)


def tokenised(
    rows: Rows,
    tokenizer: Path,
    content: Mapping[str, object],
    make: Callable[[], TokenisedDataset],
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> TokenisedDataset:
    """A dataset from the cache, or made now and put there.

    Args:
        rows: What it is made from.
        tokenizer: What it is made with.
        content: All else that it depends on, as JSON.
        make: Makes it.
        folder: The cache; None: :func:`cache_folder`.
        progress: Told that all rows are done, where they come from the cache.

    Raises:
        ArtifactError: There is no tokenizer.
        StorageError: The cache cannot be written.
    """
    folder = cache_folder() / "tokens" if folder is None else folder
    path = folder / f"{_key(rows, tokenizer, content)}.safetensors"
    dataset = _cached(path)
    if dataset is not None:
        if progress is not None:
            progress(len(rows), len(rows))
        return dataset
    made = make()
    with storage_errors(folder, f"make the cache folder (named by {CACHE_VARIABLE})"):
        folder.mkdir(parents=True, exist_ok=True)
    write_dataset(path, made)
    return open_dataset(path)


def tokenise_texts(texts: Sequence[str], tokenizer: Path, *, max_length: int) -> TokenisedDataset:
    """Texts as a dataset in memory, without labels and without the cache.

    Raises:
        DataError: A text without any token.
        ArtifactError: The tokenizer file is refused.
        UsageError: ``max_length`` leaves no room for text.
    """
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise DataError("an empty text", where=f"text {number}", hint="write a text")
    ids, offsets = _encode(texts, tokenizer, max_length, None)
    empty = np.flatnonzero(np.diff(offsets) == 0)
    if empty.size:
        raise DataError(
            "a text without any token", where=f"text {empty[0] + 1}", hint="write another text"
        )
    labels = np.full(len(texts), NO_LABEL, dtype=np.int32)
    return TokenisedDataset(ids, offsets, labels, None, max_length)


def _cached(path: Path) -> TokenisedDataset | None:
    """The cached dataset; None where there is none, or a broken one."""
    try:
        return open_dataset(path, verify=True)
    except ArtifactError:  # not there, or not what was written
        return None


def _key(rows: Rows, tokenizer: Path, content: Mapping[str, object]) -> str:
    everything = {
        "format": FORMAT_VERSION,
        "tokenizers": tokenizers.__version__,
        "file": rows.file_sha256,
        "tokenizer": _tokenizer_digest(tokenizer),
        "columns": [rows.columns.text, rows.columns.label, rows.columns.user],
        "rows": len(rows),
        **content,
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def _tokenizer_digest(tokenizer: Path) -> str:
    if not tokenizer.is_file():
        raise ArtifactError(
            "no tokenizer", where=str(tokenizer), hint="export or download the artifact again"
        )
    return sha256_file(tokenizer)


def load_tokenizer(tokenizer: Path, max_length: int | None) -> tokenizers.Tokenizer:
    """The tokenizer, which cuts texts at ``max_length`` tokens (None: not at all) and never pads.

    Raises:
        ArtifactError: The file is refused.
        UsageError: ``max_length`` leaves no room for text.
    """
    _tokenizer_digest(tokenizer)
    try:
        loaded = tokenizers.Tokenizer.from_file(str(tokenizer))
    except Exception as error:
        raise ArtifactError(
            f"not a tokenizer: {str(error)[:200]}",
            where=str(tokenizer),
            hint="export or download the artifact again",
        ) from error
    # The file may carry the padding and the cut of whoever saved it last.
    truncation = loaded.truncation
    loaded.no_padding()
    loaded.no_truncation()
    if max_length is None:
        return loaded
    special = loaded.num_special_tokens_to_add(False)
    if max_length <= special:
        raise UsageError(
            f"--max-length is {max_length}, expected more than the {special} special tokens",
            hint=f"use at least {special + 1}",
        )
    direction = (truncation or {}).get("direction", "right")
    loaded.enable_truncation(max_length, direction=str(direction).lower())
    return loaded


def _encode(
    texts: Sequence[str], tokenizer: Path, max_length: int, progress: Progress | None
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Ids int32 [tokens] and offsets int64 [rows + 1] of texts."""
    loaded = load_tokenizer(tokenizer, max_length)
    done = 0
    pieces: list[NDArray[np.int32]] = []
    lengths: list[int] = []
    if progress is not None:
        progress(0, len(texts))
    for chunk in chunks(texts):
        encoded = [encoding.ids for encoding in loaded.encode_batch_fast(chunk)]
        lengths.extend(map(len, encoded))
        flat = [token for ids in encoded for token in ids]
        pieces.append(np.array(flat, dtype=np.int32))
        done += len(chunk)
        if progress is not None:
            progress(done, len(texts))
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return np.concatenate([np.empty(0, dtype=np.int32), *pieces]), offsets


def chunks(rows: Iterable[Row], characters: Callable[[Row], int] = len) -> Iterator[list[Row]]:
    """Rows in pieces of bounded rows and characters.

    Args:
        rows: Texts, or whatever ``characters`` measures.
        characters: How many a row has.
    """
    chunk: list[Row] = []
    total = 0
    for row in rows:
        size = characters(row)
        if chunk and (len(chunk) == _CHUNK_ROWS or total + size > _CHUNK_CHARACTERS):
            yield chunk
            chunk, total = [], 0
        chunk.append(row)
        total += size
    if chunk:
        yield chunk


def numbered(users: Sequence[str]) -> NDArray[np.int32]:
    """Users as numbers in the order of their first appearance, int32 [rows]."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(user, len(numbers)) for user in users], dtype=np.int32)
