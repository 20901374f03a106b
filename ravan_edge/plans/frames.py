"""Messages between a host and the process that runs a step for it: no pickle, everything bounded.

The two may be different interpreters with different libraries, so a message is plain bytes::

    4 bytes    b"RVF1"
    4 bytes    length of the header, little endian
    header     JSON: {"op": text, "fields": {...}, "arrays": [[name, dtype, [dimension, ...]], ...]}
    rest       the arrays' bytes, one behind the other, little endian, row-major
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["Frame", "read_frame", "write_frame"]

_START = struct.Struct("<4sI")
_MAGIC = b"RVF1"
_MAX_HEADER_BYTES = 16 * 1024 * 1024
_MAX_ARRAY_BYTES = 1 << 34
_MAX_ARRAYS = 100_000
_MAX_DIMENSIONS = 8
_DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("float32", "float64", "int32", "int64", "bool", "uint8")
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One message.

    Args:
        op: What is asked, or what kind of answer it is.
        fields: Plain JSON values. Floats keep their bits; NaN and infinity are allowed.
        arrays: Numbers by name.
    """

    op: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def write_frame(pipe: BinaryIO, frame: Frame) -> None:
    """Write one message.

    Raises:
        OSError: Nobody reads any more.
        ValueError: An array has an element type that no message may have.
    """
    arrays = {name: np.asarray(array) for name, array in frame.arrays.items()}
    for name, array in arrays.items():
        if array.dtype.name not in _DTYPES:
            raise ValueError(f"array {name!r} is of {array.dtype}, which no message may hold")
    described = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    document = {"op": frame.op, "fields": dict(frame.fields), "arrays": described}
    header = json.dumps(document).encode()
    pipe.write(_START.pack(_MAGIC, len(header)) + header)
    for array in arrays.values():
        if array.size:
            stored = np.ascontiguousarray(array, _DTYPES[array.dtype.name])
            pipe.write(stored.reshape(-1).view(np.uint8).data)
    pipe.flush()


def read_frame(pipe: BinaryIO) -> Frame:
    """Read one message.

    Raises:
        EOFError: The other side is gone.
        ValueError: What came is no message, or beyond the bounds.
    """
    magic, length = _START.unpack(_exactly(pipe, _START.size))
    if magic != _MAGIC:
        raise ValueError(f"bytes that are no message: {magic!r}")
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes, expected at most {_MAX_HEADER_BYTES}")
    try:
        document = json.loads(_exactly(pipe, length).decode("utf-8"))
    except RecursionError:
        raise ValueError("a header that is nested too deeply") from None
    op, fields, shapes = _header(document)
    arrays: dict[str, NDArray[Any]] = {}
    for name, (dtype, shape) in shapes.items():
        array = np.empty(shape, dtype)
        if array.size:
            _fill(pipe, memoryview(array.reshape(-1).view(np.uint8).data))
        arrays[name] = array
    return Frame(op, fields, arrays)


def _header(
    document: object,
) -> tuple[str, dict[str, Any], dict[str, tuple[np.dtype[Any], tuple[int, ...]]]]:
    """The header's parts.

    Raises:
        ValueError: It is not as the module says.
    """
    if not isinstance(document, dict) or set(document) != {"op", "fields", "arrays"}:
        raise ValueError("a header without op, fields and arrays")
    op, fields, listed = document["op"], document["fields"], document["arrays"]
    if not isinstance(op, str) or not isinstance(fields, dict) or not isinstance(listed, list):
        raise ValueError("a header whose parts have the wrong types")  # noqa: TRY004
    if len(listed) > _MAX_ARRAYS:
        raise ValueError(f"{len(listed)} arrays, expected at most {_MAX_ARRAYS}")
    shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
    total = 0
    for item in listed:
        if not isinstance(item, list) or len(item) != 3:
            raise ValueError("an array that is not name, dtype and shape")
        name, dtype, shape = item
        if not isinstance(name, str) or name in shapes:
            raise ValueError(f"an array {name!r}: no name, or twice")
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise ValueError(f"an array {name!r} of {dtype!r}")
        if (
            not isinstance(shape, list)
            or len(shape) > _MAX_DIMENSIONS
            or not all(type(size) is int and size >= 0 for size in shape)
        ):
            raise ValueError(f"an array {name!r} of shape {shape!r}")
        total += math.prod(shape) * _DTYPES[dtype].itemsize
        if total > _MAX_ARRAY_BYTES:
            raise ValueError(f"arrays of more than {_MAX_ARRAY_BYTES} bytes")
        shapes[name] = _DTYPES[dtype], tuple(shape)
    return op, fields, shapes


def _exactly(pipe: BinaryIO, count: int) -> bytes:
    content = pipe.read(count)
    if len(content) != count:
        raise EOFError
    return content


def _fill(pipe: BinaryIO, room: memoryview) -> None:
    while room:
        count = pipe.readinto(room)  # type: ignore[attr-defined]  # buffered binary files have it
        if not count:
            raise EOFError
        room = room[count:]
