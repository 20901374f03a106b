"""Section 8 of docs/artifact.md once more, as short as it can be said: whether bytes are an update.

For the tiny artifact and one task. The reader of the server must say the same of any bytes.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np

from tests.tiny_artifact import LAYER, TinySizes

__all__ = ["is_update"]

SIZES = TinySizes()
NUMBERS = re.compile("0|[1-9][0-9]{0,17}")


def is_update(content: bytes, task: str, version: int, artifact: str) -> bool:
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
        "codec": "fp32",
        "task": task,
        "version": str(version),
        "artifact": artifact,
    }
    if not isinstance(metadata, dict) or metadata.keys() != known.keys() | {"examples", "steps"}:
        return False
    counts = metadata.pop("examples"), metadata.pop("steps")
    if metadata != known or not all(isinstance(n, str) and NUMBERS.fullmatch(n) for n in counts):
        return False
    return _tensors_fit(document, data)


def _tensors_fit(document: dict[str, Any], data: bytes) -> bool:
    shapes: dict[str, tuple[str, list[int]]] = {
        "task_head.weight": ("F32", [SIZES.labels, SIZES.width]),
        "task_head.bias": ("F32", [SIZES.labels]),
    }
    if f"{LAYER}.heads" in document:
        entry = document[f"{LAYER}.heads"]
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if not isinstance(shape, list) or shape not in [[k] for k in range(1, SIZES.heads + 1)]:
            return False
        shapes[f"{LAYER}.heads"] = ("I32", shape)
        shapes[f"{LAYER}.D"] = ("F32", [shape[0], SIZES.rank, SIZES.rank])
    if document.keys() != shapes.keys():
        return False
    places = []
    for name, (dtype, shape) in shapes.items():
        entry = document[name]
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            return False
        found, place = entry["shape"], entry["data_offsets"]
        if entry["dtype"] != dtype or found != shape or not isinstance(place, list):
            return False
        if len(place) != 2 or not all(type(value) is int for value in [*found, *place]):
            return False
        if place[1] - place[0] != 4 * math.prod(shape):
            return False
        places.append((*place, name))
    places.sort()
    if [begin for begin, _, _ in places] != [0, *(end for _, end, _ in places[:-1])]:
        return False
    return places[-1][1] == len(data) and all(
        _values_fit(name, data[begin:end]) for begin, end, name in places
    )


def _values_fit(name: str, raw: bytes) -> bool:
    if name.endswith(".heads"):
        heads = np.frombuffer(raw, "<i4").tolist()
        return heads == sorted(set(heads)) and min(heads) >= 0 and max(heads) < SIZES.heads
    return bool((np.abs(np.frombuffer(raw, "<f4")) < 64).all())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)
