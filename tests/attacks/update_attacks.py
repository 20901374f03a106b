"""Abuses of updates whose numbers a codec wrote: each says it was made for ``files/valid``.

Two heads of the one layer trained: 2 x 9 numbers, and 51 of the task head.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact import tensors_to_bytes
from tests.attacks.attack import Attack
from tests.tiny_artifact import LAYER

__all__ = ["COUNT", "update_attacks"]

COUNT = 69

HEADS = f"{LAYER}.heads"
ONE = 0x3F80  # the bits of 1 as bfloat16

Tensors = dict[str, NDArray[Any]]


def _scales(*bits: int) -> NDArray[np.uint16]:
    return np.array(bits, np.uint16)


def _right() -> dict[str, Tensors]:
    """By codec: numbers that anybody may send."""
    heads = {HEADS: np.array([1, 3], np.int32)}
    small = (np.arange(COUNT) % 7 - 3).astype(np.int8)
    halves = np.append(small.view(np.uint8) & 15, 0).astype(np.uint8)
    return {
        "fp16": {**heads, "numbers": small.astype(np.float16)},
        "int8": {**heads, "numbers": small, "scales": _scales(ONE, ONE)},
        "int4": {
            **heads,
            "numbers": halves[0::2] | (halves[1::2] << 4),
            "scales": _scales(ONE, ONE),
        },
        "top-k": {
            **heads,
            "indices": np.array([0, 5, 68], np.int32),
            "numbers": np.array([1, -2, 3], np.float32),
        },
    }


def _with(array: NDArray[Any], place: int, value: Any) -> NDArray[Any]:
    found = array.copy()
    found[place] = value
    return found


def update_attacks(manifest: bytes) -> Iterator[Attack]:
    """One for each rule of section 8 about codecs."""
    right = _right()
    digest = hashlib.sha256(manifest).hexdigest()

    def file(tensors: Tensors, codec: str, metadata: dict[str, str] | None = None) -> bytes:
        said = {
            "format": "ravan-update",
            "schema": "1",
            "task": "task-7",
            "version": "0",
            "artifact": digest,
            "encoding": "plain",
            "codec": codec,
            "examples": "800",
            "steps": "50",
        }
        return tensors_to_bytes(tensors, said | (metadata or {}))

    def attack(
        name: str, tries: str, says: str | None, codec: str, **changed: NDArray[Any] | None
    ) -> Attack:
        tensors = {**right[codec], **{key.replace("heads", HEADS): x for key, x in changed.items()}}
        kept = {key: array for key, array in tensors.items() if array is not None}
        return Attack(f"updates/{name}.safetensors", tries, says, file(kept, codec))

    for codec in right:
        yield attack(f"accept-{codec}", f"an ordinary update of codec {codec}", None, codec)
    codes, pairs = right["int8"]["numbers"], right["int4"]["numbers"]
    whole = np.arange(COUNT, dtype=np.int32)
    yield attack("accept-top-k-half", "top-k that keeps half of all", None, "top-k",
                 indices=whole[:34], numbers=np.zeros(34, np.float32))  # fmt: skip
    yield attack("index-many", "top-k that keeps more than half", "'indices'", "top-k",
                 indices=whole[:35], numbers=np.zeros(35, np.float32))  # fmt: skip
    yield attack("accept-small-scale", "the smallest scale there is", None, "int8",
                 scales=_scales(0x0080, ONE))  # fmt: skip

    for name, says, metadata in (
        ("codec-unknown", "codec", {"codec": "int3"}),
        ("codec-empty", "codec", {"codec": ""}),
        ("codec-two", "codec", {"codec": "int8|int4"}),
        ("masked", "encoding", {"encoding": "masked"}),
    ):
        content = file(right["int8"], "int8", metadata)
        tries = "metadata " + ", ".join(f"{key} = {value}" for key, value in metadata.items())
        yield Attack(f"updates/{name}.safetensors", tries, says, content)
    for codec, other in (("int8", "int4"), ("int4", "int8"), ("fp16", "fp32"), ("top-k", "fp16")):
        content = file(right[codec], other)
        tries = f"the tensors of {codec} under the name of {other}"
        yield Attack(f"updates/{codec}-as-{other}.safetensors", tries, "tensor", content)

    yield attack("numbers-missing", "no numbers", "'numbers'", "int8", numbers=None)
    yield attack("numbers-few", "a number less than its heads have", "'numbers'", "int8",
                 numbers=codes[:-1])  # fmt: skip
    yield attack("numbers-many", "a number more", "'numbers'", "int8",
                 numbers=np.append(codes, codes[:1]))  # fmt: skip
    yield attack("numbers-unsigned", "codes as U8", "'numbers'", "int8",
                 numbers=codes.view(np.uint8))  # fmt: skip
    yield attack("heads-missing", "numbers of heads that are not named", "'numbers'", "int8",
                 heads=None)  # fmt: skip
    yield attack("heads-more", "three heads, numbers of two", "'numbers'", "fp16",
                 heads=np.array([0, 1, 3], np.int32))  # fmt: skip
    yield attack("heads-order", "heads that do not ascend", "heads", "top-k",
                 heads=np.array([3, 1], np.int32))  # fmt: skip
    yield attack("scales-missing", "no scales", "'scales'", "int4", scales=None)
    yield attack("scales-few", "a scale less than there are blocks", "'scales'", "int4",
                 scales=_scales(ONE))  # fmt: skip
    yield attack("scales-float32", "scales as F32", "'scales'", "int8",
                 scales=np.ones(2, np.float32))  # fmt: skip
    for name, tries, bits in (
        ("zero", "0", 0x0000),
        ("subnormal", "subnormal", 0x007F),
        ("negative", "-1", 0xBF80),
        ("infinite", "infinite", 0x7F80),
        ("nan", "NaN", 0x7FC0),
    ):
        yield attack(f"scale-{name}", f"a scale that is {tries}", "'scales'", "int8",
                     scales=_scales(ONE, bits))  # fmt: skip
    yield attack("scale-huge", "codes times the largest scale are infinite", "infinite", "int8",
                 scales=_scales(ONE, 0x7F7F))  # fmt: skip
    yield attack("int8-unused-code", "-128, which no encoder writes", "'numbers'", "int8",
                 numbers=_with(codes, 7, -128))  # fmt: skip
    yield attack("int4-unused-low", "-8 in a lower half", "'numbers'", "int4",
                 numbers=_with(pairs, 3, 0x18))  # fmt: skip
    yield attack("int4-unused-high", "-8 in an upper half", "'numbers'", "int4",
                 numbers=_with(pairs, 3, 0x81))  # fmt: skip
    yield attack("int4-behind", "something behind the last of an odd count", "'numbers'", "int4",
                 numbers=_with(pairs, 34, 0x11))  # fmt: skip
    yield attack("fp16-nan", "a NaN", "'numbers'", "fp16",
                 numbers=_with(right["fp16"]["numbers"], 9, np.nan))  # fmt: skip
    yield attack("fp16-infinite", "an infinity", "'numbers'", "fp16",
                 numbers=_with(right["fp16"]["numbers"], 9, np.inf))  # fmt: skip
    yield attack("top-k-nan", "a NaN", "'numbers'", "top-k",
                 numbers=np.array([1, np.nan, 3], np.float32))  # fmt: skip
    for name, tries, indices in (
        ("negative", "a negative index", [-1, 5, 68]),
        ("beyond", "an index behind the last number", [0, 5, 69]),
        ("far", "an index of 2^31 - 1", [0, 5, 2**31 - 1]),
        ("twice", "an index twice: the number would depend on the reader", [0, 5, 5]),
        ("order", "indices that do not ascend", [5, 0, 68]),
        ("hidden", "a far index between good ones", [0, 2**31 - 1, 68]),
    ):
        yield attack(f"index-{name}", tries, "'indices'", "top-k",
                     indices=np.array(indices, np.int32))  # fmt: skip
    yield attack("index-count", "more indices than numbers", "'numbers'", "top-k",
                 indices=np.arange(4, dtype=np.int32))  # fmt: skip
    yield attack("index-none", "nothing is kept", "'indices'", "top-k",
                 indices=np.empty(0, np.int32), numbers=np.empty(0, np.float32))  # fmt: skip
    yield attack("index-square", "indices of two dimensions", "'indices'", "top-k",
                 indices=np.zeros((3, 1), np.int32))  # fmt: skip
