"""Error feedback: what a biased codec did not send is added to what it sends next.

With the residual r of a device and its difference D (Karimireddy et al., Error Feedback Fixes SignSGD,
ICML 2019, algorithm 2, with a difference in place of a step):

    c  = float32(D + r)        what should be sent; c = D where any |D + r| is not below the bound
    c' = decode(encode(c))     what is sent
    r <- float32(c - c')       if it is acknowledged; exact for both biased codecs
    r <- c                     if it is refused for good: nothing of it arrived

A residual that cannot be sent, because it has grown beyond what a merge takes, is let go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ravan_edge.codecs.codec import Codec, CodedTensors, Numbers
from ravan_edge.generator import Stream

__all__ = ["Transmission", "transmit"]


@dataclass(frozen=True, eq=False)
class Transmission:
    """What is sent, and what the other side makes of it.

    Attributes:
        tensors: Of the codec.
        wanted: c, float32 [n].
        received: c', float32 [n].
    """

    tensors: CodedTensors
    wanted: Numbers
    received: Numbers

    @property
    def missing(self) -> Numbers:
        """c - c', float32 [n]: the residual once it is acknowledged."""
        return self.wanted - self.received


def transmit(
    codec: Codec, numbers: Numbers, residual: Numbers | None, stream: Stream, bound: float
) -> Transmission:
    """Write numbers, and read them again.

    Args:
        codec: How.
        numbers: D, float32 [n].
        residual: r, float32 [n]; None: there is none.
        stream: Of purpose 12.
        bound: Of a number that can be merged.

    Raises:
        NumericsError: D itself cannot be written.
    """
    wanted = numbers
    if residual is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            both = numbers + residual
        if (np.abs(both) < bound).all():  # also false for NaN
            wanted = both
    tensors = codec.encode(wanted, stream)
    received = np.empty_like(wanted)
    codec.decode(tensors, received, "update")
    return Transmission(tensors, wanted, received)
