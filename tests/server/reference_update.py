"""Section 8 of docs/artifact.md once more, as short as it can be said: whether bytes are an update.

For the tiny artifact and one task. The reader of the server must say the same of any bytes.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np

from tests.codecs.reference_codecs import read
from tests.tiny_artifact import LAYER, TinySizes

__all__ = ["is_update"]

SIZES = TinySizes()
NUMBERS = re.compile("0|[1-9][0-9]{0,17}")


BYTES = {"F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1}
CODES = {"fp16": "F16", "int8": "I8", "int4": "U8", "top-k": "F32"}


def is_update(content: bytes, task: str, version: int, artifact: str, codec: str = "fp32") -> bool:
    """Whether the bytes are an update of this task that can be merged."""
    header_bytes = int.from_bytes(content[:8], "little")
    text, data = content[8 : 8 + header_bytes], content[8 + header_bytes :]
    if len(content) < 8 or len(text) < header_bytes:
        return False
    if not text.startswith(b"{") or not text.rstrip(b" ").endswith(b"}"):
        return False
    try:
        document = json.loads(text.decode(), object_pairs_hook=_once)
    except ValueError:
        return False
    metadata = document.pop("__metadata__", None)
    known = {
        "format": "ravan-update",
        "schema": "1",
        "encoding": "plain",
        "codec": codec,
        "task": task,
        "version": str(version),
        "artifact": artifact,
    }
    if not isinstance(metadata, dict) or metadata.keys() != known.keys() | {"examples", "steps"}:
        return False
    counts = metadata.pop("examples"), metadata.pop("steps")
    if metadata != known or not all(isinstance(n, str) and NUMBERS.fullmatch(n) for n in counts):
        return False
    return _tensors_fit(document, data, codec)


def _tensors_fit(document: dict[str, Any], data: bytes, codec: str) -> bool:
    shapes: dict[str, tuple[str, list[int]]] = {
        "task_head.weight": ("F32", [SIZES.labels, SIZES.width]),
        "task_head.bias": ("F32", [SIZES.labels]),
    }
    heads = {}
    if f"{LAYER}.heads" in document:
        entry = document[f"{LAYER}.heads"]
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if not isinstance(shape, list) or shape not in [[k] for k in range(1, SIZES.heads + 1)]:
            return False
        heads = {f"{LAYER}.heads": ("I32", shape)}
        shapes[f"{LAYER}.D"] = ("F32", [shape[0], SIZES.rank, SIZES.rank])
    count = sum(math.prod(shape) for _, shape in shapes.values())
    if codec != "fp32":
        shapes = _coded_shapes(document, codec, count)
    shapes |= heads
    if document.keys() != shapes.keys():
        return False
    places = [_place(document[name], *shapes[name]) for name in document]
    found = sorted((*place, name) for place, name in zip(places, document, strict=True) if place)
    if len(found) < len(places):
        return False
    if [begin for begin, _, _ in found] != [0, *(end for _, end, _ in found[:-1])]:
        return False
    return found[-1][1] == len(data) and _values_fit(
        {name: data[begin:end] for begin, end, name in found}, codec, count
    )


def _place(entry: object, dtype: str, shape: list[int]) -> tuple[int, int] | None:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        return None
    found, place = entry["shape"], entry["data_offsets"]
    if entry["dtype"] != dtype or found != shape or not isinstance(place, list):
        return None
    if len(place) != 2 or not all(type(value) is int for value in [*found, *place]):
        return None
    if place[1] - place[0] != BYTES[dtype] * math.prod(shape):
        return None
    return place[0], place[1]


def _values_fit(tensors: dict[str, bytes], codec: str, count: int) -> bool:
    found = tensors.pop(f"{LAYER}.heads", None)
    if found is not None and not _heads_fit(np.frombuffer(found, "<i4").tolist()):
        return False
    if codec == "fp32":
        numbers = [x for raw in tensors.values() for x in np.frombuffer(raw, "<f4").tolist()]
    elif _codes_fit(tensors, codec, count):
        numbers = read(codec, tensors, count)
    else:
        return False
    return all(abs(number) < 64 for number in numbers)


def _coded_shapes(
    document: dict[str, Any], codec: str, count: int
) -> dict[str, tuple[str, list[int]]]:
    blocks, size = -(-count // 64), -(-count // 2) if codec == "int4" else count
    if codec == "top-k":
        entry = document.get("indices")
        kept = entry.get("shape") if isinstance(entry, dict) else None
        if not isinstance(kept, list) or kept not in [
            [k] for k in range(1, max(1, count // 2) + 1)
        ]:
            return {}
        return {"indices": ("I32", kept), "numbers": ("F32", kept)}
    shapes = {"numbers": (CODES[codec], [size])}
    return shapes if codec == "fp16" else shapes | {"scales": ("BF16", [blocks])}


def _heads_fit(heads: list[int]) -> bool:
    return heads == sorted(set(heads)) and min(heads) >= 0 and max(heads) < SIZES.heads


def _codes_fit(tensors: dict[str, bytes], codec: str, count: int) -> bool:
    if codec == "top-k":
        indices = np.frombuffer(tensors["indices"], "<i4").tolist()
        return indices == sorted(set(indices)) and indices[0] >= 0 and indices[-1] < count
    codes = tensors["numbers"]
    if codec == "int8" and 128 in codes:
        return False
    if codec == "int4":
        halves = [half for byte in codes for half in (byte % 16, byte // 16)]
        if 8 in halves or any(halves[count:]):
            return False
    steps = np.frombuffer(tensors.get("scales", b""), "<u2").tolist()
    return all(0x0080 <= step < 0x7F80 for step in steps)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)
