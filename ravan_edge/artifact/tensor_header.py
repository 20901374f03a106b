"""The header of a tensor file: its bounds, how it is read and how it is written.

Section 5 of docs/artifact.md. Everything a header claims is checked against the bounds and against
the size of the file before anything is allocated in proportion to it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ravan_edge.errors import TensorFileError
from ravan_edge.strict_json import unique_members

__all__ = [
    "BASE_BOUNDS",
    "ELEMENT_BYTES",
    "HEADS_BOUNDS",
    "UPDATE_BOUNDS",
    "TensorBounds",
    "TensorHeader",
    "TensorSpec",
    "header_bytes",
    "header_length",
    "parse_header",
    "planned_header",
    "split_header",
]

ELEMENT_BYTES: Mapping[str, int] = {
    "F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1,
    "BOOL": 1,
}  # fmt: skip
"""Bytes of one element of each dtype a tensor file may hold."""

ALIGNMENT_BYTES = 64  # a cache line, and the widest vector register: mapped tensors start on one
_MAX_NESTING = 4
_MAX_DIMENSIONS = 8
_MAX_DIMENSION = 1 << 40
_MAX_TENSOR_BYTES = 1 << 48
_MAX_NAME_BYTES = 256
_MAX_METADATA_KEYS = 64
_MAX_METADATA_BYTES = 64 * 1024
_NAME = re.compile(r"[!-~]{1,256}")
# Possessive: backtracking would cost more than 100 bytes for each byte of a long string.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
# How our writer begins a header: metadata, whose strings here need no escapes, before all tensors.
_METADATA_FIRST = re.compile(
    rb'\{"__metadata__":(\{"[^"\\]*+":"[^"\\]*+"(?:,"[^"\\]*+":"[^"\\]*+")*+\}),'
)
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True, slots=True)
class TensorBounds:
    """What a reader accepts at most.

    Args:
        header_bytes: Length of the JSON header.
        tensors: How many tensors.
        file_bytes: Size of the whole file.
        dtypes: The dtypes that may occur.
        finite: Whether a NaN or an infinity is refused.
    """

    header_bytes: int
    tensors: int
    file_bytes: int
    dtypes: frozenset[str]
    finite: bool


BASE_BOUNDS = TensorBounds(16 << 20, 65_536, 1 << 48, frozenset(ELEMENT_BYTES), finite=False)
"""For ``base.safetensors`` and ``conformance.safetensors``."""

HEADS_BOUNDS = TensorBounds(1 << 20, 4096, 1 << 30, frozenset({"F32", "I32"}), finite=True)
"""For heads."""

UPDATE_BOUNDS = TensorBounds(
    1 << 20, 4096, 1 << 30, frozenset({"F32", "I32", "F16", "BF16", "I8", "U8"}), finite=True
)
"""For updates; which dtypes one of them has is its codec's business."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Where one tensor lies: bytes ``[begin, end)`` counted from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """A checked header.

    ``specs`` are in the order of the data. ``data_offset`` is where the data start in the file;
    ``file_bytes`` is the size of the whole file.
    """

    specs: Mapping[str, TensorSpec]
    metadata: Mapping[str, str]
    data_offset: int
    file_bytes: int


def header_length(prefix: bytes, file_bytes: int, bounds: TensorBounds, where: str) -> int:
    """The header's length from the first 8 bytes of a file.

    Raises:
        TensorFileError: The file is too short or too large, or the length is out of bounds.
    """
    if file_bytes > bounds.file_bytes:
        raise _refusal(where, f"{file_bytes} bytes, expected at most {bounds.file_bytes}")
    if len(prefix) < 8:
        raise _refusal(where, f"{len(prefix)} bytes, expected at least 8: it is cut off")
    length = int.from_bytes(prefix, "little")
    if length > bounds.header_bytes:
        raise _refusal(where, f"header of {length} bytes, expected at most {bounds.header_bytes}")
    if length > file_bytes - 8:
        raise _refusal(
            where, f"header of {length} bytes, but only {file_bytes - 8} follow: it is cut off"
        )
    return length


def parse_header(raw: bytes, file_bytes: int, bounds: TensorBounds, where: str) -> TensorHeader:
    """Check the JSON header ``raw`` of a file of ``file_bytes``.

    Raises:
        TensorFileError: Any rule of section 5 is broken; names file, tensor, expected and found.
    """
    document = _parse_json(raw, bounds, where)
    metadata = _check_metadata(document.pop("__metadata__", {}), where)
    if len(document) > bounds.tensors:
        raise _refusal(where, f"{len(document)} tensors, expected at most {bounds.tensors}")
    data_bytes = file_bytes - 8 - len(raw)
    specs = {name: _check_entry(name, entry, bounds, where) for name, entry in document.items()}
    ordered = sorted(specs.items(), key=lambda item: (item[1].begin, item[1].end))
    position = 0
    for name, spec in ordered:
        if spec.end > data_bytes:
            raise _refusal(
                f"{where}: tensor {name!r}",
                f"ends at byte {spec.end}, but there are {data_bytes} bytes of data: it is cut off",
            )
        if spec.begin != position:
            kind = "overlaps the tensor before it" if spec.begin < position else "leaves a hole"
            raise _refusal(
                f"{where}: tensor {name!r}", f"{kind}: begins at {spec.begin}, expected {position}"
            )
        position = spec.end
    if position != data_bytes:
        raise _refusal(
            where, f"{data_bytes - position} bytes behind the last tensor, expected none"
        )
    return TensorHeader(dict(ordered), metadata, 8 + len(raw), file_bytes)


def split_header(
    raw: bytes, bounds: TensorBounds, where: str
) -> tuple[dict[str, str], bytes] | None:
    """The checked metadata of the JSON header ``raw``, and its tensors as they are written.

    For a reader that meets the same tensors again and again: once :func:`parse_header` accepted a
    header, it also accepts any other of the same bounds with equal second part and as many bytes of
    data, and finds the same tensors. (The metadata are a complete object, with no other inside; a
    second ``__metadata__`` among the tensors was refused.)

    Returns:
        None where the header does not begin as our writer begins one.

    Raises:
        TensorFileError: The metadata break a rule of section 5.
    """
    found = _METADATA_FIRST.match(raw)
    if found is None:
        return None
    metadata = _check_metadata(_parse_json(found[1], bounds, where), where)
    return metadata, raw[found.end() :]


def header_bytes(specs: Mapping[str, TensorSpec], metadata: Mapping[str, str], where: str) -> bytes:
    """Length and JSON header of a file that holds ``specs`` in their order, padded with spaces.

    Raises:
        TensorFileError: A name, a shape or the metadata is not allowed by the format.
    """
    document: dict[str, object] = {}
    if _check_metadata(dict(metadata), where):
        document["__metadata__"] = dict(sorted(metadata.items(), key=lambda pair: pair[0].encode()))
    for name, spec in specs.items():
        _check_name(name, where)
        _check_shape(f"{where}: tensor {name!r}", list(spec.shape), spec.dtype)
        document[name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [spec.begin, spec.end],
        }
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT_BYTES)
    if len(specs) > BASE_BOUNDS.tensors or len(text) > BASE_BOUNDS.header_bytes:
        raise _refusal(where, f"{len(specs)} tensors need a header of {len(text)} bytes: too many")
    return len(text).to_bytes(8, "little") + text


def planned_header(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    metadata: Mapping[str, str],
    where: str = "tensors",
) -> TensorHeader:
    """The header that a file of these tensors has, before there are any numbers.

    Args:
        tensors: Name -> dtype and shape.
        metadata: Of the file.
        where: How errors call it.

    Raises:
        TensorFileError: A name, a shape or the metadata is not allowed by the format.
    """
    specs: dict[str, TensorSpec] = {}
    position = 0
    # Larger elements first: every tensor starts at a multiple of its element size.
    for name in sorted(tensors, key=lambda name: (-ELEMENT_BYTES[tensors[name][0]], name.encode())):
        dtype, shape = tensors[name]
        end = position + math.prod(shape) * ELEMENT_BYTES[dtype]
        specs[name] = TensorSpec(dtype, shape, position, end)
        position = end
    begin = len(header_bytes(specs, metadata, where))
    return TensorHeader(specs, dict(metadata), begin, begin + position)


def _refusal(where: str, message: str) -> TensorFileError:
    return TensorFileError(
        message,
        where=where,
        hint="download or make the file again; docs/artifact.md has the format",
    )


def _parse_json(raw: bytes, bounds: TensorBounds, where: str) -> dict[str, object]:
    if not raw.startswith(b"{") or not raw.rstrip(b" ").endswith(b"}"):
        raise _refusal(where, "the header is not one JSON object from its first byte on")
    # Count and measure the skeleton first: a header of a few MB of "[[],[],..." would otherwise
    # become hundreds of MB of objects, and deep nesting an exhausted stack.
    skeleton = _STRING.sub(b"", raw)
    depth = deepest = 0
    for bracket in _BRACKET.finditer(skeleton):
        depth += 1 if bracket[0] in b"[{" else -1
        deepest = max(deepest, depth)
        if deepest > _MAX_NESTING:
            raise _refusal(where, f"the header is nested deeper than {_MAX_NESTING}")
    entries = bounds.tensors + 2
    if skeleton.count(b"{") > entries or skeleton.count(b"[") > 2 * entries:
        raise _refusal(where, f"the header has more than {bounds.tensors} tensors")
    if skeleton.count(b",") > 16 * entries + _MAX_METADATA_KEYS:
        raise _refusal(where, "the header has more values than its tensors can need")
    try:
        document = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=unique_members,
            parse_float=_no_float,
            parse_constant=_no_float,
        )
    except (ValueError, RecursionError) as error:
        raise _refusal(where, f"the header is not the JSON it should be: {error}") from None
    if not isinstance(document, dict):
        raise _refusal(where, "the header is not one JSON object")
    return document


def _no_float(text: str) -> object:
    raise ValueError(f"{text[:40]} where an integer is expected")


def _check_metadata(found: object, where: str) -> dict[str, str]:
    where = f"{where}: __metadata__"
    if not isinstance(found, dict):
        raise _refusal(where, "expected an object of strings")
    if len(found) > _MAX_METADATA_KEYS:
        raise _refusal(where, f"{len(found)} keys, expected at most {_MAX_METADATA_KEYS}")
    metadata: dict[str, str] = {}
    size = 0
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise _refusal(where, f"key {str(key)[:80]!r} is not a string with a string")
        try:
            size += len(key.encode()) + len(value.encode())
        except UnicodeEncodeError:
            raise _refusal(where, f"key {key[:80]!r} holds half a surrogate pair") from None
        metadata[key] = value
    if size > _MAX_METADATA_BYTES:
        raise _refusal(where, f"{size} bytes, expected at most {_MAX_METADATA_BYTES}")
    return metadata


def _check_name(name: str, where: str) -> None:
    if not _NAME.fullmatch(name) or name == "__metadata__":
        raise _refusal(
            f"{where}: tensor {name[:80]!r}", "a name is 1 to 256 printable ASCII characters"
        )


def _check_entry(name: str, entry: object, bounds: TensorBounds, where: str) -> TensorSpec:
    _check_name(name, where)
    where = f"{where}: tensor {name!r}"
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise _refusal(where, "expected an object of exactly dtype, shape and data_offsets")
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in ELEMENT_BYTES:
        raise _refusal(where, f"dtype {str(dtype)[:40]!r} is unknown")
    if dtype not in bounds.dtypes:
        raise _refusal(where, f"dtype {dtype}, expected one of {', '.join(sorted(bounds.dtypes))}")
    shape, size = _check_shape(where, entry["shape"], dtype)
    begin, end = _integers(where, "data_offsets", entry["data_offsets"], _MAX_TENSOR_BYTES, (2, 2))
    if begin > end:
        raise _refusal(where, f"begins at {begin} behind its end at {end}")
    if end - begin != size:
        raise _refusal(
            where, f"{end - begin} bytes, expected {size} for {dtype} of shape {list(shape)}"
        )
    return TensorSpec(dtype, shape, begin, end)


def _check_shape(where: str, found: object, dtype: str) -> tuple[tuple[int, ...], int]:
    """The checked shape and its bytes."""
    shape = _integers(where, "shape", found, _MAX_DIMENSION, (0, _MAX_DIMENSIONS))
    # Zeros are left out of this product: [0, 2^40, 2^40] holds nothing but overflows an int64.
    if math.prod(filter(None, shape)) * ELEMENT_BYTES[dtype] > _MAX_TENSOR_BYTES:
        raise _refusal(where, f"shape {list(shape)} of {dtype} is larger than 2^48 bytes")
    return shape, math.prod(shape) * ELEMENT_BYTES[dtype]


def _integers(
    where: str, key: str, found: object, most: int, lengths: tuple[int, int]
) -> tuple[int, ...]:
    if not isinstance(found, list) or not lengths[0] <= len(found) <= lengths[1]:
        raise _refusal(where, f"{key}: expected a list of {lengths[0]} to {lengths[1]} integers")
    for value in found:
        if type(value) is not int or not 0 <= value <= most:
            raise _refusal(where, f"{key}: {str(value)[:40]!r}, expected an integer 0 .. {most}")
    return tuple(found)
