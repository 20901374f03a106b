"""The update file: what a device uploads after a round (docs/artifact.md, section 8).

An update comes from a stranger. It is hostile until checked: its size is bounded by the manifest
before a byte is read, and every name, shape, index and number is checked before it is handed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact import (
    HEADS_BOUNDS,
    Manifest,
    Role,
    TensorHeader,
    read_header,
    tensors_from_bytes,
    tensors_to_bytes,
    update_bytes,
)
from ravan_edge.errors import ArtifactError, ArtifactNotFoundError
from ravan_edge.files import storage_errors
from ravan_edge.methods import HeadIndices, Method, Piece, Training, Vector
from ravan_edge.protocol.update_info import UpdateInfo, complaint_about

__all__ = [
    "Update",
    "UpdateReader",
    "UpdateView",
    "decode_update",
    "encode_update",
    "read_update",
]

_DIFFERENCE = ".D"
_HEADS = ".heads"
_ANY_NUMBERS = replace(HEADS_BOUNDS, finite=False)


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
        pieces: Its numbers and their places in the parameter vector; 0 where there is none.
        places: What it trained, as ranges of the parameter vector, ascending: the same as the mask
            of :class:`Update`.
    """

    info: UpdateInfo
    trained: Mapping[str, HeadIndices]
    pieces: Sequence[Piece]
    places: Sequence[slice]


def encode_update(
    info: UpdateInfo, method: Method, difference: Vector, training: Training
) -> bytes:
    """The bytes of an update file.

    Args:
        info: Metadata.
        method: What trained.
        difference: Float32 [parameters], as :func:`ravan_edge.training.local_round` returns it.
        training: What trained; heads that did not are left out.

    Raises:
        ValueError: The metadata break the format.
    """
    metadata = info.metadata()
    complaint = complaint_about(metadata)
    if complaint is not None:
        raise ValueError(complaint)
    tensors: dict[str, NDArray[Any]] = {}
    for segment in method.layout.segments:
        values = difference[segment.place].reshape(segment.shape)
        if segment.role is Role.CORE and segment.layer is not None:
            heads = training.trained[segment.layer]
            if heads.size:
                tensors[f"{segment.layer}{_DIFFERENCE}"] = values[heads]
                tensors[f"{segment.layer}{_HEADS}"] = heads.astype(np.int32)
        elif segment.role is not Role.SCALE:
            tensors[segment.name] = values
    return tensors_to_bytes(tensors, metadata)


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
        header = read_header(content, HEADS_BOUNDS, where=where)
        info = _info(header.metadata, self.artifact, where)
        tensors = tensors_from_bytes(
            content,
            HEADS_BOUNDS if finite else _ANY_NUMBERS,
            _expected(header, self.method, where),
            header=header,
            where=where,
        )
        trained: dict[str, HeadIndices] = {}
        for layer, count in _layers(self.method).items():
            heads = tensors.get(f"{layer}{_HEADS}")
            if heads is None:
                heads = np.empty(0, np.int32)  # a layer that is left out trained nothing
            else:
                _check_heads(heads, count, f"{where}: {layer}{_HEADS}")
            trained[layer] = heads.copy()
        pieces, places = _where_it_lies(self.method, tensors, trained)
        return UpdateView(info, trained, pieces, places)

    def decode(self, content: bytes | memoryview, *, where: str = "update") -> Update:
        """Check the bytes of an update and copy what they hold; see :meth:`view`.

        Raises:
            ArtifactError: As there.
            TensorFileError: As there.
        """
        view = self.view(content, where=where)
        difference = np.zeros(self.method.layout.size, np.float32)
        for start, values in view.pieces:
            difference[start : start + values.size] = values
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

    def _check_size(self, size: int, where: str) -> None:
        if size > self.largest_bytes:
            raise _refused(f"{size} bytes, an update has at most {self.largest_bytes}", where)


def decode_update(
    content: bytes | memoryview,
    manifest: Manifest,
    method: Method,
    artifact: str,
    *,
    where: str = "update",
) -> Update:
    """Check the bytes of one update and read them; see :class:`UpdateReader`, which reads many.

    Raises:
        ArtifactError: Too large, of another artifact, metadata or heads that break section 8.
        TensorFileError: The tensor file breaks section 5, or its tensors are not those of the table.
    """
    return UpdateReader(manifest, method, artifact).decode(content, where=where)


def read_update(path: Path, manifest: Manifest, method: Method, artifact: str) -> Update:
    """Read an update file; its size is checked before it is opened.

    Raises:
        ArtifactError: As :func:`decode_update`.
        ArtifactNotFoundError: There is no such file.
        StorageError: It cannot be read.
    """
    reader = UpdateReader(manifest, method, artifact)
    ((where, content),) = reader.contents([path])
    return reader.decode(content, where=where)


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


def _layers(method: Method) -> dict[str, int]:
    """Layers that have heads, and how many."""
    return {
        segment.layer: segment.shape[0]
        for segment in method.layout.segments
        if segment.role is Role.CORE and segment.layer is not None
    }


def _where_it_lies(
    method: Method, tensors: Mapping[str, NDArray[Any]], trained: Mapping[str, HeadIndices]
) -> tuple[list[Piece], list[slice]]:
    """The numbers of an update, and all that it trained; both in the order of the vector."""
    pieces: list[Piece] = []
    places: list[slice] = []
    runs = {layer: _runs(heads.tolist()) for layer, heads in trained.items()}
    for segment in method.layout.segments:
        size = segment.stop - segment.start
        if segment.role not in {Role.CORE, Role.SCALE}:
            pieces.append((segment.start, tensors[segment.name].reshape(-1)))
            _append(places, segment.start, size)
        elif segment.layer is not None:
            one = size // segment.shape[0]
            numbers = tensors.get(f"{segment.layer}{_DIFFERENCE}")
            for first, head, count in runs[segment.layer]:
                start = segment.start + head * one
                if segment.role is Role.CORE and numbers is not None:
                    pieces.append((start, numbers[first : first + count].reshape(-1)))
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


def _expected(
    header: TensorHeader, method: Method, where: str
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names, dtypes and shapes that must be there; K of a layer is what the file says, 1 .. h."""
    expected: dict[str, tuple[str, tuple[int, ...]]] = {}
    for segment in method.layout.segments:
        if segment.role is Role.CORE:
            name = f"{segment.layer}{_HEADS}"
            spec = header.specs.get(name)
            if spec is None:
                continue  # a difference without its heads is then one tensor too many
            if len(spec.shape) != 1 or not 1 <= spec.shape[0] <= segment.shape[0]:
                raise _refused(
                    f"shape {list(spec.shape)}, expected 1 to {segment.shape[0]} heads",
                    f"{where}: tensor {name!r}",
                )
            expected[name] = ("I32", spec.shape)
            expected[f"{segment.layer}{_DIFFERENCE}"] = (
                "F32",
                (spec.shape[0], *segment.shape[1:]),
            )
        elif segment.role is not Role.SCALE:
            expected[segment.name] = ("F32", segment.shape)
    return expected


def _check_heads(heads: HeadIndices, count: int, where: str) -> None:
    # Compared, not subtracted: a difference of two int32 can wrap around.
    ascending = bool(np.all(heads[1:] > heads[:-1]))
    if not ascending or heads[0] < 0 or heads[-1] >= count:
        raise _refused(f"heads {heads.tolist()}, expected ascending numbers below {count}", where)


def _refused(message: str, where: str) -> ArtifactError:
    return ArtifactError(message, where=where, hint="train again from the version the server has")
