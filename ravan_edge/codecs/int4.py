"""Codec ``int4``: codes of 4 bits, unbiased; 0.53 bytes a number. See :mod:`ravan_edge.codecs.blocks`."""

from __future__ import annotations

import numpy as np

from ravan_edge.codecs.blocks import SCALES, block_count, quantise, restore
from ravan_edge.codecs.codec import (
    NUMBERS,
    CodecName,
    CodedTensors,
    FixedForms,
    Numbers,
    TensorForms,
    refused,
)
from ravan_edge.generator import Stream

__all__ = ["Int4"]

_LEVELS = 7


class Int4(FixedForms):
    """The codec; see :class:`ravan_edge.codecs.codec.Codec`."""

    name = CodecName.INT4
    biased = False

    def forms(self, count: int) -> TensorForms:
        """Two codes in a byte, the earlier one in its lower half: U8 [n / 2]; steps BF16 [blocks]."""
        return {NUMBERS: ("U8", (-(-count // 2),)), SCALES: ("BF16", (block_count(count),))}

    def encode(self, numbers: Numbers, stream: Stream) -> CodedTensors:
        """Round at random.

        Raises:
            NumericsError: A number is not finite.
        """
        codes, scales = quantise(numbers, _LEVELS, stream)
        halves = np.zeros(len(codes) + len(codes) % 2, np.uint8)
        np.bitwise_and(codes.view(np.uint8), 15, out=halves[: len(codes)])
        return {NUMBERS: halves[0::2] | (halves[1::2] << 4), SCALES: scales}

    def decode(self, tensors: CodedTensors, out: Numbers, where: str) -> None:
        """Codes times steps.

        Raises:
            ArtifactError: A code of -8, a last half that is not 0 though nothing is in it, or a step
                that is none.
        """
        pairs = tensors[NUMBERS]
        codes = np.empty(2 * len(pairs), np.int8)
        # Shifting a signed byte to the right repeats its sign.
        codes[0::2] = (pairs << 4).view(np.int8) >> 4
        codes[1::2] = pairs.view(np.int8) >> 4
        if codes.size and codes.min() < -_LEVELS:
            place = int(codes.argmin())
            raise refused(
                f"-8 in a half of the byte at index [{place // 2}], no code", NUMBERS, where
            )
        if len(codes) > len(out) and codes[-1]:
            raise refused(
                f"the upper half of the byte at index [{len(pairs) - 1}] is not 0", NUMBERS, where
            )
        restore(codes[: len(out)], tensors[SCALES], out, where)
