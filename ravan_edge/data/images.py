"""Images as pixels of the model's size, decoded once and memory-mapped so that processes share them."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.manifest import ImageSettings
from ravan_edge.artifact.tensor_file import (
    BASE_BOUNDS,
    TensorBounds,
    TensorSpec,
    map_tensors,
    read_header,
)
from ravan_edge.artifact.tensor_header import header_bytes
from ravan_edge.data.batches import Batch, Draw
from ravan_edge.data.tokenise import cache_folder
from ravan_edge.errors import ArtifactError, DataError, StorageError, TensorFileError
from ravan_edge.files import storage_errors, write_atomic

__all__ = ["MAX_CACHE_BYTES", "ImageDataset", "ImageRows", "ImageTable", "open_images", "pixels_of"]

MAX_CACHE_BYTES = 32 << 30
_FORMAT, _FORMAT_VERSION = "ravan-images", 1
_SUM = "sha256"
_OPTIONAL = frozenset({"users"})
_NAMES = frozenset({"labels", "pixels", _SUM, "users"})
_BOUNDS = TensorBounds(
    1 << 16, len(_NAMES), BASE_BOUNDS.file_bytes, frozenset({"I32", "U8"}), False
)

Decode = Callable[[bytes, ImageSettings, str], NDArray[np.uint8]]
Progress = Callable[[int, int], None]


class ImageTable(Protocol):
    """Where images are, before they are decoded: a folder, or a parquet file."""

    @property
    def sha256(self) -> str:
        """Of all that is read, 64 hex digits."""
        ...

    def __len__(self) -> int: ...

    def where(self, index: int) -> str:
        """File or row of an image, for a message."""
        ...

    def contents(self) -> Iterator[bytes]:
        """The bytes of each image, in order."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ImageDataset:
    """Decoded images. One that was opened from a file is pickled as its path.

    Args:
        pixels: uint8 [rows, channels, height, width].
        labels: int32 [rows], indices of the artifact's label map, or ``NO_LABEL``.
        users: int32 [rows], natural users numbered by first appearance, or None.
        path: The cache file it is mapped from, or None.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int32]
    users: NDArray[np.int32] | None = None
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[object, ...]:
        if self.path is not None:
            return (open_images, (self.path,))
        return (ImageDataset, (self.pixels, self.labels, self.users))


@dataclass(frozen=True, slots=True, eq=False)
class ImageRows:
    """Images that become float32 pixels batch by batch.

    Args:
        images: The decoded images.
        settings: The artifact's.
    """

    images: ImageDataset
    settings: ImageSettings

    @property
    def labels(self) -> NDArray[np.int32]:
        """The label of each row, int32 [rows]."""
        return self.images.labels

    @property
    def users(self) -> NDArray[np.int32] | None:
        """The natural user of each row, int32 [rows], or None."""
        return self.images.users

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The model's tokens of each row, int64 [rows]: all the same."""
        return np.full(len(self), self.settings.tokens, np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: NDArray[np.int64], draw: Draw | None = None) -> Batch:
        """Some rows as one batch; nothing is drawn."""
        del draw
        pixels = self.images.pixels[rows]
        values = np.empty(pixels.shape, np.float32)
        for channel, table in enumerate(_tables(self.settings)):
            values[:, channel] = table[pixels[:, channel]]
        labels = self.labels[rows].astype(np.int64)
        return Batch({"pixel_values": values}, labels, self.settings.tokens)


def _tables(settings: ImageSettings) -> NDArray[np.float32]:
    """What each of the 256 values becomes, float32 [channels, 256]; rounded where transformers does."""
    scaled = (np.arange(256).astype(np.float64) * settings.rescale).astype(np.float32)
    mean, std = (np.array(numbers, np.float32) for numbers in (settings.mean, settings.std))
    found: NDArray[np.float32] = (scaled - mean[:, None]) / std[:, None]
    return found


def pixels_of(
    table: ImageTable,
    settings: ImageSettings,
    decode: Decode,
    *,
    labels: NDArray[np.int32],
    users: NDArray[np.int32] | None,
    content: object,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> ImageDataset:
    """The decoded images of a table, from the cache where they are there.

    A cache file is named by a digest of all that it depends on, and written as temporary file and
    rename; one that is not whole is made again.

    Args:
        table: Where the images are.
        settings: What they become.
        decode: Makes uint8 [channels, height, width] of an image's bytes.
        labels: int32 [rows].
        users: int32 [rows], or None.
        content: What else the content depends on, as JSON: versions of decoders, columns, label map.
        folder: The cache; None: ``images`` in :func:`cache_folder`.
        progress: Told how many images are done.

    Raises:
        DataError: An image is refused, or all together are too large.
        StorageError: The cache cannot be written.
    """
    shape = (len(table), settings.channels, settings.height, settings.width)
    size = math.prod(shape)  # exact, whatever a manifest claims
    if size > MAX_CACHE_BYTES:
        raise DataError(
            f"{shape[0]} images need {size} bytes as pixels, expected at most {MAX_CACHE_BYTES}",
            where=table.where(0),
            hint="use a part of them",
        )
    folder = cache_folder() / "images" if folder is None else folder
    path = folder / f"{_key(table, settings, content)}.safetensors"
    dataset = _cached(path, shape)
    if dataset is not None:
        if progress is not None:
            progress(len(table), len(table))
        return dataset
    with storage_errors(folder, "make the cache folder (named by RAVAN_CACHE_DIR)"):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    if size > free:
        raise StorageError(
            f"the pixels of {shape[0]} images need {size} bytes, {free} are free",
            where=str(folder),
            hint="free some space, or name another folder with RAVAN_CACHE_DIR",
        )
    images = _decoded(table, settings, decode, progress)
    write_atomic(path, _chunks(shape, images, labels, users, str(path)))
    return open_images(path)


def _decoded(
    table: ImageTable, settings: ImageSettings, decode: Decode, progress: Progress | None
) -> Iterator[NDArray[np.uint8]]:
    for index, content in enumerate(table.contents()):
        yield decode(content, settings, table.where(index))
        if progress is not None:
            progress(index + 1, len(table))


def _chunks(
    shape: Sequence[int],
    images: Iterator[NDArray[np.uint8]],
    labels: NDArray[np.int32],
    users: NDArray[np.int32] | None,
    where: str,
) -> Iterator[bytes | memoryview]:
    """The cache file piece by piece; its last tensor is the digest of all others."""
    small = {"labels": labels} | ({} if users is None else {"users": users})
    specs: dict[str, TensorSpec] = {}
    position = 0
    for name, dtype, sizes, width in (
        *((name, "I32", array.shape, 4) for name, array in small.items()),
        ("pixels", "U8", tuple(shape), 1),
        (_SUM, "U8", (hashlib.sha256().digest_size,), 1),
    ):
        end = position + width * math.prod(sizes)
        specs[name] = TensorSpec(dtype, tuple(sizes), position, end)
        position = end
    metadata = {"format": _FORMAT, "schema": str(_FORMAT_VERSION)}
    yield header_bytes(specs, metadata, where)
    digest = hashlib.sha256()
    for array in small.values():
        piece = np.ascontiguousarray(array, "<i4").reshape(-1).view(np.uint8).data
        digest.update(piece)
        yield piece
    for image in images:
        piece = np.ascontiguousarray(image).reshape(-1).data
        digest.update(piece)
        yield piece
    yield digest.digest()


def open_images(path: Path, *, verify: bool = False) -> ImageDataset:
    """Map a cache file; nothing is copied.

    Args:
        path: Written by :func:`pixels_of`.
        verify: Read it all and compare with its digest. Workers need not: the process that started
            them did.

    Raises:
        TensorFileError: The file is not whole, or holds no images.
        ArtifactNotFoundError: There is no such file.
        StorageError: The file cannot be mapped.
    """
    where = str(path)
    metadata = read_header(path, _BOUNDS).metadata
    tensors = map_tensors(path, _BOUNDS)
    if metadata.get("format") != _FORMAT or metadata.get("schema") != str(_FORMAT_VERSION):
        raise _bad(where, "not an image file of this version")
    if tensors.keys() | _OPTIONAL != _NAMES:
        raise _bad(where, "a tensor is missing")
    pixels, labels, users = tensors["pixels"], tensors["labels"], tensors.get("users")
    numbers = [labels] if users is None else [labels, users]
    if (
        pixels.dtype != np.uint8
        or pixels.ndim != 4
        or any(array.dtype != np.int32 or array.shape != pixels.shape[:1] for array in numbers)
    ):
        raise _bad(where, "the rows do not fit the pixels")
    if verify:
        digest = hashlib.sha256()
        for array in (*numbers, pixels):
            digest.update(array.reshape(-1).view(np.uint8).data)
        if digest.digest() != tensors[_SUM].tobytes():
            raise _bad(where, "the digest of the content is another one")
    return ImageDataset(pixels, labels, users, path)


def _cached(path: Path, shape: tuple[int, ...]) -> ImageDataset | None:
    """The cached dataset; None where there is none, or a broken one."""
    try:
        found = open_images(path, verify=True)
    except ArtifactError:  # not there, or not what was written
        return None
    return found if found.pixels.shape == shape else None


def _key(table: ImageTable, settings: ImageSettings, content: object) -> str:
    everything = {
        "format": _FORMAT_VERSION,
        "images": table.sha256,
        "rows": len(table),
        "size": [settings.channels, settings.height, settings.width],
        "resize": list(settings.resize),
        "resample": settings.resample,
        "content": content,
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def _bad(where: str, message: str) -> TensorFileError:
    return TensorFileError(message, where=where, hint="remove the file; it is made again")
