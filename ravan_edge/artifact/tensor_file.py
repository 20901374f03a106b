"""Tensor files: safetensors, bounded for untrusted input and byte-deterministic when written.

Section 5 of docs/artifact.md. The official library is not used for reading: it maps dtypes and
shapes without our bounds, and its refusals name no tensor.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.tensor_header import (
    BASE_BOUNDS,
    ELEMENT_BYTES,
    HEADS_BOUNDS,
    UPDATE_BOUNDS,
    TensorBounds,
    TensorHeader,
    TensorSpec,
    header_bytes,
    header_length,
    parse_header,
    planned_header,
    split_header,
)
from ravan_edge.errors import ArtifactNotFoundError, TensorFileError
from ravan_edge.files import storage_errors, write_atomic

__all__ = [
    "BASE_BOUNDS",
    "HEADS_BOUNDS",
    "UPDATE_BOUNDS",
    "Expected",
    "TensorBounds",
    "TensorHeader",
    "TensorSpec",
    "check_expected",
    "map_tensors",
    "read_header",
    "read_split_header",
    "read_tensors",
    "tensors_from_bytes",
    "tensors_to_bytes",
    "write_tensors",
]

Expected = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name -> (dtype as in the file, e.g. ``"F32"``; shape)."""

# numpy has no bfloat16: its bits come as uint16, which the format does not have otherwise.
_TO_NUMPY = {
    name: np.dtype(code)
    for name, code in {
        "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
        "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?",
    }.items()
}  # fmt: skip
_FROM_NUMPY = {dtype: name for name, dtype in _TO_NUMPY.items()}


def write_tensors(
    path: Path,
    tensors: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
    *,
    durable: bool = True,
) -> None:
    """Write a tensor file atomically. Equal tensors and metadata make equal bytes.

    Arrays are streamed one by one; one that is not C-contiguous is copied while it is written.

    Raises:
        TensorFileError: A dtype, name or shape that the format does not have.
        StorageError: The disk is full, or the like.
    """
    write_atomic(path, _chunks(tensors, metadata or {}, os.fspath(path)), durable=durable)


def tensors_to_bytes(
    tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The bytes :func:`write_tensors` writes.

    Raises:
        TensorFileError: A dtype, name or shape that the format does not have.
    """
    return b"".join(_chunks(tensors, metadata or {}, "tensors"))


def read_header(
    source: Path | bytes | memoryview, bounds: TensorBounds, *, where: str | None = None
) -> TensorHeader:
    """The checked header of a file or of bytes; no tensor is read.

    Args:
        source: A path, or the whole content.
        bounds: ``HEADS_BOUNDS``, ``UPDATE_BOUNDS`` or ``BASE_BOUNDS``.
        where: How errors call the source; by default the path.

    Raises:
        TensorFileError: A rule of section 5 is broken.
        ArtifactNotFoundError: There is no such file.
    """
    if isinstance(source, Path):
        with _open(source, where or os.fspath(source)) as file:
            return _header_of_file(file, bounds, where or os.fspath(source))
    return _header_of_buffer(memoryview(source), bounds, where or "tensors")


def read_split_header(
    content: bytes | memoryview, bounds: TensorBounds, *, where: str = "tensors"
) -> tuple[dict[str, str], bytes, int] | None:
    """Metadata, tensors as they are written, and bytes of data; see ``tensor_header.split_header``.

    Raises:
        TensorFileError: The file is cut off, or its metadata break a rule of section 5.
    """
    view = memoryview(content)
    length = header_length(bytes(view[:8]), view.nbytes, bounds, where)
    found = split_header(bytes(view[8 : 8 + length]), bounds, where)
    return None if found is None else (*found, view.nbytes - 8 - length)


def read_tensors(
    path: Path, bounds: TensorBounds, expected: Expected | None = None, *, where: str | None = None
) -> dict[str, NDArray[Any]]:
    """Read all tensors into fresh, writable arrays, in the order of the file.

    Args:
        path: A regular file.
        bounds: ``HEADS_BOUNDS``, ``UPDATE_BOUNDS`` or ``BASE_BOUNDS``.
        expected: Names, dtypes and shapes that must be there, none missing and none more.
        where: How errors call the file; by default its path.

    Raises:
        TensorFileError: A rule of section 5 is broken.
        ArtifactNotFoundError: There is no such file.
        StorageError: The file cannot be read.
    """
    where = where or os.fspath(path)
    with _open(path, where) as file:
        header = _header_of_file(file, bounds, where)
        if expected is not None:
            check_expected(header, expected, where)
        tensors: dict[str, NDArray[Any]] = {}
        with storage_errors(path, "read the file"):
            for name, spec in header.specs.items():
                raw = np.empty(spec.end - spec.begin, np.uint8)
                if raw.size and file.readinto(raw.data) != raw.size:  # type: ignore[attr-defined]
                    raise TensorFileError(
                        "the file became shorter while it was read",
                        where=f"{where}: tensor {name!r}",
                    )
                tensors[name] = _typed(raw, name, spec, bounds, where)
    return tensors


def tensors_from_bytes(
    content: bytes | memoryview,
    bounds: TensorBounds,
    expected: Expected | None = None,
    *,
    where: str = "tensors",
) -> dict[str, NDArray[Any]]:
    """The tensors of a file held in memory: views into ``content``, read-only if that is.

    Raises:
        TensorFileError: A rule of section 5 is broken.
    """
    view = memoryview(content)
    header = _header_of_buffer(view, bounds, where)
    if expected is not None:
        check_expected(header, expected, where)
    return _views(view, header, bounds, where)


def map_tensors(
    path: Path, bounds: TensorBounds, *, where: str | None = None
) -> dict[str, NDArray[Any]]:
    """All tensors as read-only views of the memory-mapped file.

    Pages are shared by all processes that map the file. A tensor that does not start at a multiple
    of its element size (our writer never makes one) is copied, since runtimes need that. The file
    stays mapped as long as one of the arrays lives.

    Raises:
        TensorFileError: A rule of section 5 is broken.
        ArtifactNotFoundError: There is no such file.
        StorageError: The file cannot be mapped.
    """
    where = where or os.fspath(path)
    with _open(path, where) as file:
        header = _header_of_file(file, bounds, where)
        with storage_errors(path, "map the file"):
            mapped = mmap.mmap(file.fileno(), header.file_bytes, access=mmap.ACCESS_READ)
    return _views(memoryview(mapped), header, bounds, where)


def check_expected(header: TensorHeader, expected: Expected, where: str) -> None:
    """Refuse a header whose names, dtypes and shapes are not exactly ``expected``.

    Raises:
        TensorFileError: Names the tensor, what was expected and what was found.
    """
    for name, (dtype, shape) in expected.items():
        spec = header.specs.get(name)
        if spec is None:
            raise _mismatch(where, name, "is missing")
        if spec.dtype != dtype or spec.shape != tuple(shape):
            found = f"{spec.dtype} {list(spec.shape)}"
            raise _mismatch(where, name, f"is {found}, expected {dtype} {list(shape)}")
    for name in header.specs:
        if name not in expected:
            raise _mismatch(where, name, "is not expected in this file")


def _mismatch(where: str, name: str, message: str) -> TensorFileError:
    return TensorFileError(
        message,
        where=f"{where}: tensor {name!r}",
        hint="take a file made for this artifact; `ravan inspect` lists its tensors",
    )


@contextmanager
def _open(path: Path, where: str) -> Iterator[BinaryIO]:
    with storage_errors(path, "read the file"):
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise ArtifactNotFoundError(
                "there is no such file", where=where, hint="look at the path"
            ) from None
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise TensorFileError("not a regular file", where=where, hint="name a tensor file")
        file = path.open("rb")
    with file:
        yield file


def _header_of_file(file: BinaryIO, bounds: TensorBounds, where: str) -> TensorHeader:
    with storage_errors(where, "read the file"):
        file_bytes = os.fstat(file.fileno()).st_size
        length = header_length(file.read(8), file_bytes, bounds, where)
        raw = file.read(length)
    return parse_header(raw, file_bytes, bounds, where)


def _header_of_buffer(view: memoryview, bounds: TensorBounds, where: str) -> TensorHeader:
    length = header_length(bytes(view[:8]), view.nbytes, bounds, where)
    return parse_header(bytes(view[8 : 8 + length]), view.nbytes, bounds, where)


def _views(
    view: memoryview, header: TensorHeader, bounds: TensorBounds, where: str
) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {}
    for name, spec in header.specs.items():
        size = spec.end - spec.begin
        raw = np.frombuffer(view, np.uint8, size, header.data_offset + spec.begin) if size else None
        raw = np.empty(0, np.uint8) if raw is None else raw
        if raw.ctypes.data % ELEMENT_BYTES[spec.dtype]:
            raw = raw.copy()
            raw.flags.writeable = False
        tensors[name] = _typed(raw, name, spec, bounds, where)
    return tensors


def _typed(
    raw: NDArray[np.uint8], name: str, spec: TensorSpec, bounds: TensorBounds, where: str
) -> NDArray[Any]:
    """The bytes as an array of the tensor's dtype and shape, its values checked."""
    if spec.dtype == "BOOL" and raw.size and raw.max() > 1:
        # Any other byte is no bool to numpy, and compares as it likes.
        raise _bad_value(raw > 1, "a byte other than 0 and 1", name, spec, where)
    array: NDArray[Any] = raw.view(_TO_NUMPY[spec.dtype]).reshape(spec.shape)
    if bounds.finite and spec.dtype.startswith("F"):
        finite = np.isfinite(array)
        if not finite.all():
            raise _bad_value(~finite, "a NaN or an infinity", name, spec, where)
    return array


def _bad_value(
    bad: NDArray[np.bool_], what: str, name: str, spec: TensorSpec, where: str
) -> TensorFileError:
    index = [int(i) for i in np.unravel_index(int(np.argmax(bad)), spec.shape)]
    return TensorFileError(
        f"{what} at index {index}; every value must be finite"
        if "NaN" in what
        else f"{what} at index {index}",
        where=f"{where}: tensor {name!r}",
        hint="take an earlier version of the file; training that diverged needs a lower --lr",
    )


def _chunks(
    tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str], where: str
) -> Iterator[bytes | memoryview]:
    """The file, piece by piece: the header, then each tensor's own memory."""
    named = {
        name: (_dtype_name(name, array, where), tuple(array.shape))
        for name, array in tensors.items()
    }
    specs = planned_header(named, metadata, where).specs
    yield header_bytes(specs, metadata, where)
    for name, spec in specs.items():
        if spec.begin < spec.end:
            array = np.ascontiguousarray(tensors[name], _TO_NUMPY[spec.dtype])
            yield array.reshape(-1).view(np.uint8).data


def _dtype_name(name: str, array: NDArray[Any], where: str) -> str:
    dtype = _FROM_NUMPY.get(array.dtype.newbyteorder("<"))
    if dtype is None:
        raise TensorFileError(
            f"dtype {array.dtype} cannot be stored",
            where=f"{where}: tensor {name!r}",
            hint=f"store one of {', '.join(str(known) for known in _FROM_NUMPY)}",
        )
    return dtype
