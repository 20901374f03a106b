"""Codec ``int8``: codes of 8 bits, unbiased; 1.03 bytes a number. See :mod:`ravan_edge.codecs.blocks`."""

from __future__ import annotations

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

__all__ = ["Int8"]

_LEVELS = 127


class Int8(FixedForms):
    """The codec; see :class:`ravan_edge.codecs.codec.Codec`."""

    name = CodecName.INT8
    biased = False

    def forms(self, count: int) -> TensorForms:
        """Codes I8 [n], steps BF16 [blocks]."""
        return {NUMBERS: ("I8", (count,)), SCALES: ("BF16", (block_count(count),))}

    def encode(self, numbers: Numbers, stream: Stream) -> CodedTensors:
        """Round at random.

        Raises:
            NumericsError: A number is not finite.
        """
        codes, scales = quantise(numbers, _LEVELS, stream)
        return {NUMBERS: codes, SCALES: scales}

    def decode(self, tensors: CodedTensors, out: Numbers, where: str) -> None:
        """Codes times steps.

        Raises:
            ArtifactError: A code of -128, or a step that is none.
        """
        codes = tensors[NUMBERS]
        if codes.size and codes.min() < -_LEVELS:
            raise refused(f"-128 at index [{int(codes.argmin())}], no code", NUMBERS, where)
        restore(codes, tensors[SCALES], out, where)
