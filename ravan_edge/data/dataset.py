"""Token ids of a whole data file, memory-mapped so that processes share them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.tensor_file import (
    BASE_BOUNDS,
    TensorBounds,
    map_tensors,
    read_header,
    write_tensors,
)
from ravan_edge.errors import TensorFileError

__all__ = ["FORMAT_VERSION", "NO_LABEL", "TokenisedDataset", "open_dataset", "write_dataset"]

FORMAT_VERSION = 1
NO_LABEL = -100
"""The label of a row without one: it counts nothing in a loss."""

_FORMAT = "ravan-tokens"
_DTYPES: Mapping[str, Any] = {
    "ids": np.int32,
    "labels": np.int32,
    "offsets": np.int64,
    "token_labels": np.int32,
    "users": np.int32,
}
_OPTIONAL = frozenset({"token_labels", "users"})
_BOUNDS = TensorBounds(
    1 << 16, len(_DTYPES), BASE_BOUNDS.file_bytes, frozenset({"I32", "I64"}), False
)


@dataclass(frozen=True, slots=True, eq=False)
class TokenisedDataset:
    """The rows of a data file as token ids. Row i is ``ids[offsets[i]:offsets[i + 1]]``.

    A dataset that was opened from a file is pickled as its path: a worker process maps the same
    pages instead of receiving a copy.

    Args:
        ids: int32 [tokens], all rows one behind the other, special tokens included.
        offsets: int64 [rows + 1], from 0 to tokens.
        labels: int32 [rows], indices of the artifact's label map, or ``NO_LABEL``.
        users: int32 [rows], natural users numbered by first appearance, or None.
        max_length: The most tokens of a row.
        path: The cache file it is mapped from, or None.
        token_labels: int32 [tokens], one label for each token, or None.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int32]
    users: NDArray[np.int32] | None
    max_length: int
    path: Path | None = None
    token_labels: NDArray[np.int32] | None = None

    @classmethod
    def of_rows(
        cls,
        rows: Sequence[NDArray[np.int32]],
        max_length: int,
        *,
        users: NDArray[np.int32] | None = None,
        token_labels: NDArray[np.int32] | None = None,
    ) -> TokenisedDataset:
        """A dataset in memory, from the token ids of each row; the rows themselves have no label."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        labels = np.full(len(rows), NO_LABEL, np.int32)
        ids = np.concatenate(rows)
        return cls(ids, offsets, labels, users, max_length, token_labels=token_labels)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, int64 [rows]."""
        return np.diff(self.offsets)

    def row(self, index: int) -> NDArray[np.int32]:
        """The token ids of one row, int32 [tokens of the row]."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def __reduce__(self) -> tuple[object, ...]:
        if self.path is not None:
            return (open_dataset, (self.path,))
        fields = (self.ids, self.offsets, self.labels, self.users, self.max_length, None)
        return (TokenisedDataset, (*fields, self.token_labels))


def write_dataset(path: Path, dataset: TokenisedDataset) -> None:
    """Write a dataset as one tensor file, atomically.

    Raises:
        StorageError: The disk is full, or the like.
    """
    tensors: dict[str, NDArray[Any]] = {
        "ids": dataset.ids,
        "offsets": dataset.offsets,
        "labels": dataset.labels,
    }
    if dataset.users is not None:
        tensors["users"] = dataset.users
    if dataset.token_labels is not None:
        tensors["token_labels"] = dataset.token_labels
    metadata = {
        "format": _FORMAT,
        "schema": str(FORMAT_VERSION),
        "max_length": str(dataset.max_length),
        "digest": _digest(tensors),
    }
    write_tensors(path, tensors, metadata)


def open_dataset(path: Path, *, verify: bool = False) -> TokenisedDataset:
    """Map a dataset file; nothing is copied.

    Args:
        path: Written by :func:`write_dataset`.
        verify: Read it all and compare with its digest. Workers need not: the process that started
            them did.

    Raises:
        TensorFileError: The file is not whole, or not a dataset.
        ArtifactNotFoundError: There is no such file.
        StorageError: The file cannot be mapped.
    """
    where = str(path)
    metadata = read_header(path, _BOUNDS).metadata
    tensors = map_tensors(path, _BOUNDS)
    if metadata.get("format") != _FORMAT or metadata.get("schema") != str(FORMAT_VERSION):
        raise _bad(where, "not a token file of this version")
    if tensors.keys() | _OPTIONAL != _DTYPES.keys():
        raise _bad(where, "a tensor is missing")
    for name, array in tensors.items():
        if array.ndim != 1 or array.dtype != _DTYPES[name]:
            raise _bad(where, f"tensor {name!r} has a wrong dtype or shape")
    ids, offsets, labels = tensors["ids"], tensors["offsets"], tensors["labels"]
    users, token_labels = tensors.get("users"), tensors.get("token_labels")
    if (
        len(offsets) != len(labels) + 1
        or offsets[0] != 0
        or offsets[-1] != len(ids)
        or bool((np.diff(offsets) < 1).any())
        or (users is not None and len(users) != len(labels))
        or (token_labels is not None and len(token_labels) != len(ids))
    ):
        raise _bad(where, "the rows do not fit the tokens")
    max_length = metadata.get("max_length", "")
    if not max_length.isdecimal() or len(max_length) > 9:
        raise _bad(where, "max_length is not a number")
    if verify and metadata.get("digest") != _digest(tensors):
        raise _bad(where, "the digest of the content is another one")
    return TokenisedDataset(
        ids, offsets, labels, users, int(max_length), path=path, token_labels=token_labels
    )


def _digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def _bad(where: str, message: str) -> TensorFileError:
    return TensorFileError(message, where=where, hint="remove the file; it is made again")
