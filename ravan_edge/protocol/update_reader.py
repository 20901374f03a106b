"""Checking and reading updates (docs/artifact.md, section 8).

An update comes from a stranger. It is hostile until checked: its size is bounded by the manifest
before a byte is read, and every name, shape, index and number is checked before it is handed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import lt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact import (
    UPDATE_BOUNDS,
    Manifest,
    Role,
    TensorSpec,
    check_expected,
    read_header,
    read_split_header,
    tensors_from_bytes,
    update_bytes,
)
from ravan_edge.artifact.tensor_header import parse_header
from ravan_edge.codecs import CODECS, Codec, CodecName
from ravan_edge.errors import ArtifactNotFoundError, TensorFileError
from ravan_edge.files import storage_errors
from ravan_edge.methods import HeadIndices, Method, Piece, Vector
from ravan_edge.protocol.update_info import HEADS, UpdateInfo, complaint_about
from ravan_edge.protocol.update_places import (
    expected_tensors,
    numbers_in_order,
    refused,
    where_numbers_lie,
)

__all__ = ["Update", "UpdateReader", "UpdateView"]

_MOST_KNOWN = 8
# Of the tensors that codecs write; bits of bfloat16 come as uint16.
_DTYPES = {
    name: np.dtype(code)
    for name, code in {
        "F32": "<f4", "I32": "<i4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "U8": "u1",
    }.items()
}  # fmt: skip


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
    """A checked update whose numbers still lie where it was read, or decoded: no longer than that lives.

    Attributes:
        info: What it says about itself.
        trained: As in :class:`Update`, a copy.
        data: Float32 [any]. With codec ``fp32`` all of the file's data: between the numbers lie the bits of
            head indices, as float32 they are next to 0. With another one what it decodes to.
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
class _Numbers:
    """Where the numbers of an update lie that chose these heads: see :class:`UpdateView`."""

    chosen: Mapping[str, list[int]]
    pieces: Sequence[Piece]
    places: Sequence[slice]


@dataclass(frozen=True, slots=True)
class _Tensors:
    """Where the tensors of a checked header lie.

    Attributes:
        codec: That wrote the numbers; None: fp32.
        specs: Its tensors, by name.
        places: With fp32: name -> its numbers, counted from the start of the data.
        data_bytes: Of all tensors.
        latest: What was found of the latest update: most of a round choose the same heads. At most one.
    """

    codec: Codec | None
    specs: Mapping[str, TensorSpec]
    places: Mapping[str, slice]
    data_bytes: int
    latest: list[_Numbers] = field(default_factory=list)

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
        """No update of the artifact is larger, whatever its codec."""
        codecs: list[Codec | None] = [None, *CODECS.values()]
        return max(update_bytes(self.manifest, codec=codec) for codec in codecs)

    @cached_property
    def _layers(self) -> dict[str, int]:
        """Layers that have heads, and how many."""
        return {
            segment.layer: segment.shape[0]
            for segment in self.method.layout.segments
            if segment.role is Role.CORE and segment.layer is not None
        }

    @cached_property
    def _known(self) -> dict[tuple[CodecName, bytes], _Tensors]:
        """What the last few different headers said; most of a round's differ in metadata only."""
        return {}

    def numbers_buffer(self) -> Vector:
        """Room for the numbers of one update, float32 [parameters]; see :meth:`view`."""
        return np.empty(self.method.layout.size, np.float32)

    def view(
        self,
        content: bytes | memoryview,
        *,
        finite: bool = True,
        where: str = "update",
        buffer: Vector | None = None,
    ) -> UpdateView:
        """Check the bytes of an update; its numbers stay where they are, or are decoded.

        Args:
            content: The whole file.
            finite: False: a NaN or an infinity is let through, for somebody who refuses it later.
            where: How errors call the update.
            buffer: Where numbers are decoded, of :meth:`numbers_buffer`: the view lasts until the next
                one is decoded there. None: in memory of its own.

        Raises:
            ArtifactError: Too large, of another artifact, metadata, heads or codes that break section 8.
            TensorFileError: The tensor file breaks section 5, or its tensors are not those of the
                table.
        """
        self._check_size(memoryview(content).nbytes, where)
        info, tensors = self._header(content, where)
        raw = np.frombuffer(content, np.uint8)[tensors.data_offset(content) :]
        if tensors.codec is not None:
            return self._decoded(content, raw, info, tensors, finite, where, buffer)
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
        found = self._numbers(tensors, chosen)
        data = raw.view("<f4")
        if finite and not np.isfinite(data).all():
            tensors_from_bytes(content, UPDATE_BOUNDS, where=where)  # which says where it is
        return UpdateView(info, _arrays(chosen), data, found.pieces, found.places)

    def _numbers(self, tensors: _Tensors, chosen: dict[str, list[int]]) -> _Numbers:
        found = tensors.latest[0] if tensors.latest else None  # other threads may change it now
        if found is None or found.chosen != chosen:
            if tensors.codec is None:
                pieces, places = where_numbers_lie(self.method, tensors.places, chosen)
            else:
                pieces, places = numbers_in_order(self.method, chosen)
            found = _Numbers(chosen, pieces, places)
            tensors.latest[:] = [found]
        return found

    def _decoded(
        self,
        content: bytes | memoryview,
        raw: NDArray[np.uint8],
        info: UpdateInfo,
        tensors: _Tensors,
        finite: bool,
        where: str,
        buffer: Vector | None,
    ) -> UpdateView:
        """The view of an update whose numbers a codec wrote."""
        found = {name: _typed(raw, spec) for name, spec in tensors.specs.items()}
        chosen: dict[str, list[int]] = {}
        for layer, count in self._layers.items():
            name = f"{layer}{HEADS}"
            chosen[layer] = found[name].tolist() if name in found else []
            _check_heads(chosen[layer], count, f"{where}: {name}")
        numbers = self._numbers(tensors, chosen)
        pieces = numbers.pieces
        size = pieces[-1].begin + pieces[-1].size if pieces else 0
        data = np.empty(size, np.float32) if buffer is None else buffer[:size]
        assert tensors.codec is not None  # noqa: S101
        tensors.codec.decode(found, data, where)
        if finite and not np.isfinite(data).all():
            tensors_from_bytes(content, UPDATE_BOUNDS, where=where)  # which says where it is
            raise TensorFileError("a step so large that numbers are infinite", where=where)
        return UpdateView(info, _arrays(chosen), data, pieces, numbers.places)

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
        header = parse_header(raw, file_bytes, UPDATE_BOUNDS, where)
        info = _info(header.metadata, self.artifact, where)
        codec = CODECS.get(info.codec)
        check_expected(header, expected_tensors(header, self.method, codec, where), where)
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
        split = read_split_header(content, UPDATE_BOUNDS, where=where)
        if split is not None:
            metadata, key, data_bytes = split
            info = _info(metadata, self.artifact, where)
            known = self._known.get((info.codec, key))
            if known is not None and known.data_bytes == data_bytes:
                return info, known
        header = read_header(content, UPDATE_BOUNDS, where=where)
        info = _info(header.metadata, self.artifact, where)
        codec = CODECS.get(info.codec)
        check_expected(header, expected_tensors(header, self.method, codec, where), where)
        # Offsets in numbers, not in bytes: without a codec, each element has four.
        places = {
            name: slice(spec.begin // 4, spec.end // 4) for name, spec in header.specs.items()
        }
        found = _Tensors(codec, header.specs, places, header.file_bytes - header.data_offset)
        if split is not None:
            # Only what passed all checks is kept, and no more than a stranger may fill with junk.
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[info.codec, split[1]] = found
        return info, found

    def _check_size(self, size: int, where: str) -> None:
        if size > self.largest_bytes:
            raise refused(f"{size} bytes, an update has at most {self.largest_bytes}", where)


def _info(metadata: Mapping[str, str], artifact: str, where: str) -> UpdateInfo:
    complaint = complaint_about(metadata)
    if complaint is not None:
        raise refused(complaint, where)
    if metadata["artifact"] != artifact:
        raise refused(f"made for artifact {metadata['artifact']}, this is {artifact}", where)
    return UpdateInfo(
        task=metadata["task"],
        version=int(metadata["version"]),
        artifact=metadata["artifact"],
        examples=int(metadata["examples"]),
        steps=int(metadata["steps"]),
        codec=CodecName(metadata["codec"]),
    )


def _typed(raw: NDArray[np.uint8], spec: TensorSpec) -> NDArray[Any]:
    """A tensor of the data, as a view where it is aligned."""
    dtype = _DTYPES[spec.dtype]
    found = raw[spec.begin : spec.end]
    if found.ctypes.data % dtype.itemsize:
        found = found.copy()
    return found.view(dtype)


def _arrays(chosen: Mapping[str, list[int]]) -> dict[str, HeadIndices]:
    return {layer: np.array(heads, np.int32) for layer, heads in chosen.items()}


def _check_heads(heads: Sequence[int], count: int, where: str) -> None:
    ascending = all(map(lt, heads, heads[1:]))
    if heads and (not ascending or heads[0] < 0 or heads[-1] >= count):
        raise refused(f"heads {heads}, expected ascending numbers below {count}", where)
