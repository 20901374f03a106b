"""Where the numbers of an update lie, in its file and in the vector (docs/artifact.md, section 8)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ravan_edge.artifact import Role, TensorHeader
from ravan_edge.codecs import Codec, TensorForms
from ravan_edge.errors import ArtifactError
from ravan_edge.methods import Method, Piece
from ravan_edge.protocol.update_info import DIFFERENCE, HEADS

__all__ = ["expected_tensors", "numbers_in_order", "refused", "where_numbers_lie"]


def refused(message: str, where: str) -> ArtifactError:
    """The error about an update that breaks the format."""
    return ArtifactError(message, where=where, hint="train again from the version the server has")


def expected_tensors(
    header: TensorHeader, method: Method, codec: Codec | None, where: str
) -> TensorForms:
    """Names, dtypes and shapes that must be there; K of a layer is what the file says, 1 .. h.

    Raises:
        ArtifactError: A layer has another number of heads, or the codec no such tensors.
    """
    expected: TensorForms = {}
    numbers = 0
    for segment in method.layout.segments:
        if segment.role is Role.CORE:
            name = f"{segment.layer}{HEADS}"
            spec = header.specs.get(name)
            if spec is None:
                continue  # a difference without its heads is then one tensor too many
            if len(spec.shape) != 1 or not 1 <= spec.shape[0] <= segment.shape[0]:
                raise refused(
                    f"shape {list(spec.shape)}, expected 1 to {segment.shape[0]} heads",
                    f"{where}: tensor {name!r}",
                )
            expected[name] = ("I32", spec.shape)
            shape = (spec.shape[0], *segment.shape[1:])
            numbers += math.prod(shape)
            if codec is None:
                expected[f"{segment.layer}{DIFFERENCE}"] = ("F32", shape)
        elif segment.role is not Role.SCALE:
            numbers += segment.stop - segment.start
            if codec is None:
                expected[segment.name] = ("F32", segment.shape)
    if codec is not None:
        shapes = {name: spec.shape for name, spec in header.specs.items()}
        expected |= codec.expected(numbers, shapes, where)
    return expected


def where_numbers_lie(
    method: Method, tensors: Mapping[str, slice], trained: Mapping[str, Sequence[int]]
) -> tuple[list[Piece], list[slice]]:
    """The numbers of an ``fp32`` update in the order of its data; what it trained in that of the vector.

    Args:
        method: Its layout has the places.
        tensors: Where each tensor lies in the data.
        trained: Heads by layer.
    """
    pieces: list[Piece] = []
    places: list[slice] = []
    runs = {layer: _runs(heads) for layer, heads in trained.items()}
    for segment in method.layout.segments:
        size = segment.stop - segment.start
        if segment.role not in {Role.CORE, Role.SCALE}:
            pieces.append(Piece(segment.start, tensors[segment.name].start, size))
            _append(places, segment.start, size)
        elif segment.layer is not None:
            one = size // segment.shape[0]
            for first, head, count in runs[segment.layer]:
                start = segment.start + head * one
                if segment.role is Role.CORE:
                    begin = tensors[f"{segment.layer}{DIFFERENCE}"].start + first * one
                    pieces.append(Piece(start, begin, count * one))
                _append(places, start, count * one)
    pieces.sort(key=lambda piece: piece.begin)
    return pieces, places


def numbers_in_order(
    method: Method, trained: Mapping[str, Sequence[int]]
) -> tuple[list[Piece], list[slice]]:
    """The same for the numbers that a codec writes: those of the vector, less what is not sent.

    Args:
        method: Its layout has the places.
        trained: Heads by layer.
    """
    pieces: list[Piece] = []
    places: list[slice] = []
    begin = 0
    for segment in method.layout.segments:
        one, runs = segment.stop - segment.start, [(0, 0, 1)]
        if segment.role in {Role.CORE, Role.SCALE} and segment.layer is not None:
            one //= segment.shape[0]
            runs = _runs(trained[segment.layer])
        for _, head, count in runs:
            start = segment.start + head * one
            if segment.role is not Role.SCALE:
                pieces.append(Piece(start, begin, count * one))
                begin += count * one
            _append(places, start, count * one)
    return pieces, places


def _runs(heads: Sequence[int]) -> list[tuple[int, int, int]]:
    """Heads that follow on each other: index of the first in the list, its number, how many.

    >>> _runs([0, 1, 3, 6, 7, 8])
    [(0, 0, 2), (2, 3, 1), (3, 6, 3)]
    """
    runs: list[tuple[int, int, int]] = []
    for index, head in enumerate(heads):
        if runs and head == runs[-1][1] + runs[-1][2]:
            first, begin, count = runs[-1]
            runs[-1] = (first, begin, count + 1)
        else:
            runs.append((index, head, 1))
    return runs


def _append(places: list[slice], start: int, size: int) -> None:
    """Add a range behind all others; one that begins where the last one ends makes it longer."""
    if places and places[-1].stop == start:
        places[-1] = slice(places[-1].start, start + size)
    else:
        places.append(slice(start, start + size))
