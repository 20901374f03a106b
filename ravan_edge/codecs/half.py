"""Codec ``fp16``: each number as the nearest IEEE 754 binary16, ties to even.

|error| <= max(2^-11 |D|, 2^-25). Half the bytes of fp32.
"""

from __future__ import annotations

import numpy as np

from ravan_edge.codecs.codec import (
    NUMBERS,
    CodecName,
    CodedTensors,
    FixedForms,
    Numbers,
    TensorForms,
    check_finite,
)
from ravan_edge.errors import NumericsError
from ravan_edge.generator import Stream

__all__ = ["Half"]

# From here on binary16 rounds to infinity.
_BEYOND = 65_520.0


class Half(FixedForms):
    """The codec; see :class:`ravan_edge.codecs.codec.Codec`."""

    name = CodecName.FP16
    biased = True

    def forms(self, count: int) -> TensorForms:
        """One F16 [n]."""
        return {NUMBERS: ("F16", (count,))}

    def encode(self, numbers: Numbers, stream: Stream) -> CodedTensors:
        """Round to nearest.

        Raises:
            NumericsError: A number is not finite, or 65,520 or more in size.
        """
        check_finite(numbers)
        largest = float(np.abs(numbers).max(initial=0.0))
        if largest >= _BEYOND:
            raise NumericsError(
                f"an update holds {largest:g}, fp16 ends at {_BEYOND:g}",
                hint="lower the learning rate, or use another --codec",
            )
        return {NUMBERS: numbers.astype("<f2")}

    def decode(self, tensors: CodedTensors, out: Numbers, where: str) -> None:
        """Exact: every binary16 is a float32."""
        np.copyto(out, tensors[NUMBERS])
