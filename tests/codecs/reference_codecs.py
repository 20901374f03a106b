"""The codecs once more, from docs/artifact.md and docs/generator.md, number by number in plain Python."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

__all__ = ["encoded", "read", "step_of", "word"]

LEVELS = {"int8": 127, "int4": 7}


def word(seed: int, version: int, device: int, number: int) -> int:
    """Word ``number`` of the stream that rounds: purpose 12, index 0."""
    c = [number // 4, version, device, 12 << 24]
    k0, k1 = seed % 2**32, seed // 2**32
    for _ in range(10):
        one, two = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [two >> 32 ^ c[1] ^ k0, two % 2**32, one >> 32 ^ c[3] ^ k1, one % 2**32]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c[number % 4]


def bfloat16(bits: int) -> float:
    value: float = struct.unpack("<f", struct.pack("<I", bits << 16))[0]
    return value


def step_of(largest: float, levels: int) -> int:
    """Bits of the smallest bfloat16 >= 2^-126 that reaches: found by halving, in exact arithmetic."""
    low, high = 0x0080, 0x7F7F
    while low < high:
        middle = (low + high) // 2
        if Fraction(bfloat16(middle)) * levels >= Fraction(largest):
            high = middle
        else:
            low = middle + 1
    return low


def encoded(
    codec: str, numbers: list[float], share: float, seed: int, version: int, device: int
) -> dict[str, bytes]:
    """Each tensor's bytes as they stand in the file."""
    if codec == "fp16":
        return {"numbers": b"".join(struct.pack("<e", number) for number in numbers)}
    if codec == "top-k":
        kept = min(len(numbers), max(1, math.floor(share * len(numbers))))
        order = sorted(range(len(numbers)), key=lambda i: (-abs(numbers[i]), i))
        chosen = sorted(order[:kept])
        return {
            "indices": struct.pack(f"<{kept}i", *chosen),
            "numbers": struct.pack(f"<{kept}f", *(numbers[i] for i in chosen)),
        }
    levels = LEVELS[codec]
    codes, steps = [], []
    for begin in range(0, len(numbers), 64):
        block = numbers[begin : begin + 64]
        bits = step_of(max(map(abs, block)), levels)
        steps.append(bits)
        for i, number in enumerate(block, begin):
            y = abs(number) / bfloat16(bits)
            m = math.floor(y)
            m += word(seed, version, device, i) < math.floor((y - m) * 2.0**32)
            codes.append(-m if number < 0 else m)
    scales = struct.pack(f"<{len(steps)}H", *steps)
    if codec == "int8":
        return {"numbers": struct.pack(f"<{len(codes)}b", *codes), "scales": scales}
    halves = [code % 16 for code in codes] + [0] * (len(codes) % 2)
    pairs = bytes(low + 16 * high for low, high in zip(halves[::2], halves[1::2], strict=True))
    return {"numbers": pairs, "scales": scales}


def read(codec: str, tensors: dict[str, bytes], count: int) -> list[float]:
    """The numbers that these bytes stand for."""
    raw = tensors["numbers"]
    if codec == "fp16":
        return list(struct.unpack(f"<{count}e", raw))
    if codec == "top-k":
        numbers = [0.0] * count
        indices = struct.unpack(f"<{len(raw) // 4}i", tensors["indices"])
        for place, number in zip(indices, struct.unpack(f"<{len(raw) // 4}f", raw), strict=True):
            numbers[place] = number
        return numbers
    scales = tensors["scales"]
    steps = [bfloat16(bits) for bits in struct.unpack(f"<{len(scales) // 2}H", scales)]
    if codec == "int8":
        codes = list(struct.unpack(f"<{count}b", raw))
    else:
        halves = [half for byte in raw for half in (byte % 16, byte // 16)][:count]
        codes = [half - 16 if half > 7 else half for half in halves]
    return [code * steps[i // 64] for i, code in enumerate(codes)]
