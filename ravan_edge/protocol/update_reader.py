"""Checking and reading updates (docs/artifact.md, section 8).

An update comes from a stranger. It is hostile until checked: its size is bounded by the manifest
before a byte is read, and every name, shape, index and number is checked before it is handed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import lt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact import (
    HEADS_BOUNDS,
    Manifest,
    Role,
    TensorHeader,
    check_expected,
    read_header,
    read_split_header,
    tensors_from_bytes,
    update_bytes,
)
from ravan_edge.artifact.tensor_header import parse_header
from ravan_edge.errors import ArtifactError, ArtifactNotFoundError
from ravan_edge.files import storage_errors
from ravan_edge.methods import HeadIndices, Method, Piece, Vector
from ravan_edge.protocol.update_info import DIFFERENCE, HEADS, UpdateInfo, complaint_about

__all__ = ["Update", "UpdateReader", "UpdateView"]

_MOST_KNOWN = 8


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """A checked update, ready for :class:`ravan_edge.merge.ExactSum`.

    Attributes:
        info: What it says about itself.
        difference: Float32 [parameters], 0 where nothing trained.
        trained: Trained heads by layer, ascending; a layer without any has an empty array. Empty
            for methods without heads.
        mask: Bool [parameters], which numbers trained; None: all of them.
    """

    info: UpdateInfo
    difference: Vector
    trained: Mapping[str, HeadIndices]
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True, eq=False)
class UpdateView:
    """A checked update whose numbers still lie where it was read: no longer than that lives.

    Attributes:
        info: What it says about itself.
        trained: As in :class:`Update`, a copy.
        data: Float32 [any], all of the file's data. Between the numbers lie the bits of head indices: as
            float32 they are next to 0.
        pieces: Which numbers of the data belong where in the parameter vector, ascending by ``begin``;
            0 where there is none.
        places: What it trained, as ranges of the parameter vector, ascending: the same as the mask
            of :class:`Update`.
    """

    info: UpdateInfo
    trained: Mapping[str, HeadIndices]
    data: Vector
    pieces: Sequence[Piece]
    places: Sequence[slice]


@dataclass(frozen=True, slots=True)
class _Tensors:
    """Where the tensors of a checked header lie.

    Attributes:
        places: Name -> its numbers, counted from the start of the data.
        data_bytes: Of all tensors.
    """

    places: Mapping[str, slice]
    data_bytes: int

    def data_offset(self, content: bytes | memoryview) -> int:
        """Where the data of a file with this header start."""
        return memoryview(content).nbytes - self.data_bytes


@dataclass(frozen=True, eq=False)
class UpdateReader:
    """Checks and reads the updates that were made for one artifact.

    Args:
        manifest: Of the artifact the server has.
        method: Its method.
        artifact: Its digest.
    """

    manifest: Manifest
    method: Method
    artifact: str

    @cached_property
    def largest_bytes(self) -> int:
        """No update of the artifact is larger."""
        return update_bytes(self.manifest)

    @cached_property
    def _layers(self) -> dict[str, int]:
        """Layers that have heads, and how many."""
        return {
            segment.layer: segment.shape[0]
            for segment in self.method.layout.segments
            if segment.role is Role.CORE and segment.layer is not None
        }

    @cached_property
    def _known(self) -> dict[bytes, _Tensors]:
        """What the last few different headers said; most of a round's differ in metadata only."""
        return {}

    def view(
        self, content: bytes | memoryview, *, finite: bool = True, where: str = "update"
    ) -> UpdateView:
        """Check the bytes of an update; its numbers stay where they are.

        Args:
            content: The whole file.
            finite: False: a NaN or an infinity is let through, for somebody who refuses it later.
            where: How errors call the update.

        Raises:
            ArtifactError: Too large, of another artifact, metadata or heads that break section 8.
            TensorFileError: The tensor file breaks section 5, or its tensors are not those of the
                table.
        """
        self._check_size(memoryview(content).nbytes, where)
        info, tensors = self._header(content, where)
        raw = np.frombuffer(content, np.uint8)[tensors.data_offset(content) :]
        if raw.ctypes.data % 4:  # our writer never makes one, but section 5 allows it
            raw = raw.copy()
        integers = raw.view("<i4")
        # Lists, not arrays: of a handful of numbers, numpy's calls would take most of the time.
        chosen: dict[str, list[int]] = {}
        for layer, count in self._layers.items():
            name = f"{layer}{HEADS}"
            place = tensors.places.get(name)
            # A layer that is left out trained nothing.
            chosen[layer] = [] if place is None else integers[place].tolist()
            _check_heads(chosen[layer], count, f"{where}: {name}")
        pieces, places = _where_it_lies(self.method, tensors.places, chosen)
        trained = {layer: np.array(heads, np.int32) for layer, heads in chosen.items()}
        data = raw.view("<f4")
        if finite and not np.isfinite(data).all():
            tensors_from_bytes(content, HEADS_BOUNDS, where=where)  # which says where it is
        return UpdateView(info, trained, data, pieces, places)

    def check_header(self, raw: bytes, file_bytes: int, *, where: str = "update") -> UpdateInfo:
        """Check all that the header of an update says, before its data are there.

        Args:
            raw: The JSON header, without the 8 bytes of its length.
            file_bytes: How long the whole file will be.
            where: How errors call the update.

        Raises:
            ArtifactError: As :meth:`view`, but for heads and numbers.
            TensorFileError: The same.
        """
        self._check_size(file_bytes, where)
        header = parse_header(raw, file_bytes, HEADS_BOUNDS, where)
        info = _info(header.metadata, self.artifact, where)
        check_expected(header, _expected(header, self.method, where), where)
        return info

    def decode(self, content: bytes | memoryview, *, where: str = "update") -> Update:
        """Check the bytes of an update and copy what they hold; see :meth:`view`.

        Raises:
            ArtifactError: As there.
            TensorFileError: As there.
        """
        view = self.view(content, where=where)
        difference = np.zeros(self.method.layout.size, np.float32)
        for start, begin, size in view.pieces:
            difference[start : start + size] = view.data[begin : begin + size]
        # Which numbers these heads are does not depend on their values: zeros do.
        mask = self.method.training(np.zeros_like(difference), view.trained).mask
        return Update(view.info, difference, view.trained, mask)

    def contents(self, paths: Iterable[Path]) -> Iterator[tuple[str, memoryview]]:
        """Name and bytes of update files, one after another; sizes are checked before they are opened.

        All are read into the same buffer: what was handed out is overwritten when the next one is
        asked for.

        Raises:
            ArtifactError: A file is too large.
            ArtifactNotFoundError: There is no such file.
            StorageError: It cannot be read.
        """
        buffer = memoryview(bytearray(self.largest_bytes + 1))  # it may have grown since
        for path in paths:
            if not path.is_file():
                raise ArtifactNotFoundError(
                    "there is no such file", where=str(path), hint="check the path"
                )
            with storage_errors(path, "read the file"):
                self._check_size(path.stat().st_size, str(path))
                with path.open("rb") as file:
                    size = file.readinto(buffer)
            yield str(path), buffer[:size].toreadonly()

    def _header(self, content: bytes | memoryview, where: str) -> tuple[UpdateInfo, _Tensors]:
        """Check all of an update but its heads and numbers."""
        split = read_split_header(content, HEADS_BOUNDS, where=where)
        if split is not None:
            metadata, key, data_bytes = split
            known = self._known.get(key)
            if known is not None and known.data_bytes == data_bytes:
                return _info(metadata, self.artifact, where), known
        header = read_header(content, HEADS_BOUNDS, where=where)
        info = _info(header.metadata, self.artifact, where)
        check_expected(header, _expected(header, self.method, where), where)
        # Offsets in numbers, not in bytes: each element of an update has four.
        places = {
            name: slice(spec.begin // 4, spec.end // 4) for name, spec in header.specs.items()
        }
        found = _Tensors(places, header.file_bytes - header.data_offset)
        if split is not None:
            # Only what passed all checks is kept, and no more than a stranger may fill with junk.
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[split[1]] = found
        return info, found

    def _check_size(self, size: int, where: str) -> None:
        if size > self.largest_bytes:
            raise _refused(f"{size} bytes, an update has at most {self.largest_bytes}", where)


def _info(metadata: Mapping[str, str], artifact: str, where: str) -> UpdateInfo:
    complaint = complaint_about(metadata)
    if complaint is not None:
        raise _refused(complaint, where)
    if metadata["artifact"] != artifact:
        raise _refused(f"made for artifact {metadata['artifact']}, this is {artifact}", where)
    return UpdateInfo(
        task=metadata["task"],
        version=int(metadata["version"]),
        artifact=metadata["artifact"],
        examples=int(metadata["examples"]),
        steps=int(metadata["steps"]),
    )


def _where_it_lies(
    method: Method, tensors: Mapping[str, slice], trained: Mapping[str, Sequence[int]]
) -> tuple[list[Piece], list[slice]]:
    """The numbers of an update in the order of its data, and all that it trained in that of the vector.

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


def _expected(
    header: TensorHeader, method: Method, where: str
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names, dtypes and shapes that must be there; K of a layer is what the file says, 1 .. h."""
    expected: dict[str, tuple[str, tuple[int, ...]]] = {}
    for segment in method.layout.segments:
        if segment.role is Role.CORE:
            name = f"{segment.layer}{HEADS}"
            spec = header.specs.get(name)
            if spec is None:
                continue  # a difference without its heads is then one tensor too many
            if len(spec.shape) != 1 or not 1 <= spec.shape[0] <= segment.shape[0]:
                raise _refused(
                    f"shape {list(spec.shape)}, expected 1 to {segment.shape[0]} heads",
                    f"{where}: tensor {name!r}",
                )
            expected[name] = ("I32", spec.shape)
            expected[f"{segment.layer}{DIFFERENCE}"] = (
                "F32",
                (spec.shape[0], *segment.shape[1:]),
            )
        elif segment.role is not Role.SCALE:
            expected[segment.name] = ("F32", segment.shape)
    return expected


def _check_heads(heads: Sequence[int], count: int, where: str) -> None:
    ascending = all(map(lt, heads, heads[1:]))
    if heads and (not ascending or heads[0] < 0 or heads[-1] >= count):
        raise _refused(f"heads {heads}, expected ascending numbers below {count}", where)


def _refused(message: str, where: str) -> ArtifactError:
    return ArtifactError(message, where=where, hint="train again from the version the server has")
