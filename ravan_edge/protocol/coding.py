"""From a device's difference to the tensors that a codec makes of it, and back to what a server reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ravan_edge.codecs import Codec, CodedTensors, transmit
from ravan_edge.generator import Purpose, Stream
from ravan_edge.methods import Method, Piece, Training, Vector
from ravan_edge.protocol.update_places import numbers_in_order

__all__ = ["CodedDifference", "Residuals", "code_difference", "rounding_stream"]


@dataclass(frozen=True, eq=False)
class Residuals:
    """What a device adds to its next difference.

    Attributes:
        acknowledged: If the update arrived, float32 [parameters].
        refused: If it is refused for good, float32 [parameters].
    """

    acknowledged: Vector
    refused: Vector


@dataclass(frozen=True, eq=False)
class CodedDifference:
    """A difference as it is sent.

    Attributes:
        tensors: Of the codec.
        received: What the server reads, float32 [parameters], 0 where nothing trained.
        residuals: Of a biased codec; None with the others.
    """

    tensors: CodedTensors
    received: Vector
    residuals: Residuals | None


def rounding_stream(seed: int, version: int, device: int) -> Stream:
    """The random words with which the numbers of an update are rounded (docs/generator.md, purpose 12).

    Args:
        seed: Of the task.
        version: That it started from.
        device: The device's number.
    """
    return Stream(seed, Purpose.ROUNDING, round=version, device=device)


def code_difference(
    codec: Codec,
    method: Method,
    difference: Vector,
    training: Training,
    residual: Vector | None,
    stream: Stream,
    bound: float,
) -> CodedDifference:
    """Write the numbers of a difference.

    Args:
        codec: How.
        method: What trained.
        difference: Float32 [parameters].
        training: Which of it is sent.
        residual: What earlier updates left out, float32 [parameters], for a biased codec; None: nothing.
            What does not train now stays in it.
        stream: See :func:`rounding_stream`.
        bound: Of a number that can be merged.

    Raises:
        NumericsError: A number is NaN, infinite, or beyond the codec's range.
    """
    trained = {layer: heads.tolist() for layer, heads in training.trained.items()}
    pieces, _ = numbers_in_order(method, trained)
    given = None if residual is None or not codec.biased else _gathered(residual, pieces)
    sent = transmit(codec, _gathered(difference, pieces), given, stream, bound)
    nothing = np.zeros_like(difference)
    residuals = None
    if codec.biased:
        before = nothing if residual is None else residual
        residuals = Residuals(
            acknowledged=_scattered(sent.missing, pieces, before),
            refused=_scattered(sent.wanted, pieces, before),
        )
    return CodedDifference(sent.tensors, _scattered(sent.received, pieces, nothing), residuals)


def _gathered(vector: Vector, pieces: list[Piece]) -> Vector:
    """The numbers that are sent, in their order: float32 [n]."""
    parts = [vector[start : start + size] for start, _, size in pieces]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def _scattered(numbers: Vector, pieces: list[Piece], rest: Vector) -> Vector:
    """The inverse: float32 [parameters]; what is not sent is that of ``rest``."""
    found = rest.copy()
    for start, begin, size in pieces:
        found[start : start + size] = numbers[begin : begin + size]
    return found
