"""Batches to compare a merged model on: the user's own texts, or random tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ravan_edge.artifact.opening import Artifact
from ravan_edge.data import read_rows
from ravan_edge.errors import UsageError
from ravan_edge.generator import Purpose, Stream

__all__ = ["random_batches", "text_batches"]

Batch = dict[str, NDArray[Any]]

_ROWS = 32
_RANDOM = 8
_LONGEST = 128
_IGNORED = -100


def text_batches(artifact: Artifact, path: Path, text_column: str | None = None) -> list[Batch]:
    """The texts of a data file as padded batches; texts are cut at 128 tokens.

    Args:
        artifact: Its tokenizer and label map.
        path: csv, tsv, jsonl or parquet.
        text_column: None: found by its usual names.

    Raises:
        UsageError: The artifact reads no text, or has no labels.
        DataError: The file is refused, or not there.
    """
    text, tokenizer_path = artifact.manifest.text, artifact.tokenizer_path
    if text is None or tokenizer_path is None or artifact.manifest.task != "text-classification":
        raise UsageError("texts are compared for text-classification only", where="--data")
    rows = read_rows(path, text_column=text_column, require_labels=False)
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(_LONGEST, text.max_length))
    encoded = [item.ids for item in tokenizer.encode_batch(list(rows.texts))]
    places = sorted(range(len(encoded)), key=lambda place: len(encoded[place]))
    return [
        _batch(artifact, [encoded[place] for place in places[begin : begin + _ROWS]])
        for begin in range(0, len(places), _ROWS)
    ]


def random_batches(artifact: Artifact) -> list[Batch]:
    """A few batches of random tokens, the same for every artifact of one tokenizer."""
    text, tokenizer_path = artifact.manifest.text, artifact.tokenizer_path
    if text is None or tokenizer_path is None or artifact.manifest.task != "text-classification":
        return []
    size = Tokenizer.from_file(str(tokenizer_path)).get_vocab_size()
    batches = []
    for index in range(_RANDOM):
        stream = Stream(0, Purpose.CONFORMANCE, index=index)
        length = min(8 * (index + 1), text.max_length)
        tokens = (stream.uniform(_ROWS * length) * size).astype(np.int64).reshape(_ROWS, length)
        batches.append(_batch(artifact, tokens.tolist()))
    return batches


def _batch(artifact: Artifact, rows: list[list[int]]) -> Batch:
    text = artifact.manifest.text
    longest = max(1, *(len(row) for row in rows))
    ids = np.full((len(rows), longest), 0 if text is None else text.pad_id, np.int64)
    mask = np.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    batch: Batch = {"input_ids": ids, "attention_mask": mask}
    wanted = {
        name: array for name, array in batch.items() if name in artifact.manifest.batch_inputs
    }
    return {**wanted, "labels": np.full(len(rows), _IGNORED, np.int64)}
