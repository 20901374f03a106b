"""The update file: what a device uploads after a round (docs/artifact.md, section 8).

An update comes from a stranger. It is hostile until checked: its size is bounded by the manifest
before a byte is read, and every name, shape, index and number is checked before it is handed on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact import (
    HEADS_BOUNDS,
    Manifest,
    Role,
    TensorHeader,
    most_update_bytes,
    read_header,
    tensors_of,
    tensors_to_bytes,
)
from ravan_edge.artifact.tensor_file import check_expected
from ravan_edge.artifact.tensor_header import parse_header
from ravan_edge.errors import ArtifactError, ArtifactNotFoundError
from ravan_edge.files import storage_errors
from ravan_edge.methods import HeadIndices, Method, Training, Vector

__all__ = [
    "Update",
    "UpdateHeader",
    "UpdateInfo",
    "check_update_header",
    "decode_update",
    "encode_update",
    "largest_number",
    "read_update",
]

_FIXED = {"format": "ravan-update", "schema": "1", "encoding": "plain", "codec": "fp32"}
_TASK = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,17}")
_DIFFERENCE = ".D"
_HEADS = ".heads"


@dataclass(frozen=True, slots=True)
class UpdateInfo:
    """What an update says about itself.

    Attributes:
        task: Id of the assignment, the key of exactly-once: 1 .. 64 of ``[A-Za-z0-9_-]``.
        version: The version of the heads it started from.
        artifact: The artifact digest.
        examples: Rows the device saw.
        steps: Steps it took.
    """

    task: str
    version: int
    artifact: str
    examples: int
    steps: int

    def metadata(self) -> dict[str, str]:
        """As written into the file."""
        return {
            **_FIXED,
            "task": self.task,
            "version": str(self.version),
            "artifact": self.artifact,
            "examples": str(self.examples),
            "steps": str(self.steps),
        }


@dataclass(frozen=True, slots=True)
class UpdateHeader:
    """The header of an update, checked.

    Attributes:
        info: What the update says about itself.
        tensors: Where its tensors lie.
    """

    info: UpdateInfo
    tensors: TensorHeader


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
    complaint = _complaint(metadata)
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


def decode_update(
    content: bytes | memoryview,
    manifest: Manifest,
    method: Method,
    artifact: str,
    *,
    where: str = "update",
) -> Update:
    """Check the bytes of an update and read them.

    Args:
        content: The whole file.
        manifest: Of the artifact the server has.
        method: Its method.
        artifact: Its digest.
        where: How errors call the update.

    Raises:
        ArtifactError: Too large, of another artifact, metadata or heads that break section 8.
        TensorFileError: The tensor file breaks section 5, or its tensors are not those of the table.
    """
    _check_size(len(content), manifest, where)
    header = read_header(content, HEADS_BOUNDS, where=where)
    info = _info(header.metadata, artifact, where)
    # A layer that is left out trained nothing.
    trained = dict.fromkeys(_layers(method), np.empty(0, np.int32))
    check_expected(header, _expected(header, method, where), where)
    tensors = _checked_tensors(content, header, method, where)
    difference = np.zeros(method.layout.size, np.float32)
    for segment in method.layout.segments:
        values = difference[segment.place].reshape(segment.shape)
        if segment.role is Role.CORE and segment.layer is not None:
            heads = tensors.get(f"{segment.layer}{_HEADS}")
            if heads is not None:
                trained[segment.layer] = heads.copy()
                values[heads] = tensors[f"{segment.layer}{_DIFFERENCE}"]
        elif segment.role is not Role.SCALE:
            values[...] = tensors[segment.name]
    # Which numbers these heads are does not depend on their values: zeros do.
    mask = method.training(np.zeros_like(difference), trained).mask
    return Update(info, difference, trained, mask)


def check_update_header(
    raw: bytes, file_bytes: int, manifest: Manifest, method: Method, artifact: str, *, where: str
) -> UpdateHeader:
    """Check all that the header of an update says, before its data are there.

    Args:
        raw: The JSON header, without the 8 bytes of its length.
        file_bytes: How long the whole file will be.
        manifest: Of the artifact the server has.
        method: Its method.
        artifact: Its digest.
        where: How errors call the update.

    Raises:
        ArtifactError: As :func:`decode_update`, but for the values.
        TensorFileError: The same.
    """
    _check_size(file_bytes, manifest, where)
    header = parse_header(raw, file_bytes, HEADS_BOUNDS, where)
    info = _info(header.metadata, artifact, where)
    check_expected(header, _expected(header, method, where), where)
    return UpdateHeader(info, header)


def largest_number(
    content: bytes | memoryview, header: UpdateHeader, method: Method, *, where: str
) -> float:
    """Check the values of an update whose header was checked, without a copy of them.

    Args:
        content: The whole file.
        header: As :func:`check_update_header` found it.
        method: Of the artifact the server has.
        where: How errors call the update.

    Returns:
        The largest absolute value of its difference.

    Raises:
        ArtifactError: As :func:`decode_update`.
        TensorFileError: The same.
    """
    largest = 0.0
    for name, array in _checked_tensors(content, header.tensors, method, where).items():
        if not name.endswith(_HEADS) and array.size:
            largest = max(largest, float(array.max()), -float(array.min()))
    return largest


def read_update(path: Path, manifest: Manifest, method: Method, artifact: str) -> Update:
    """Read an update file; its size is checked before it is opened.

    Raises:
        ArtifactError: As :func:`decode_update`.
        ArtifactNotFoundError: There is no such file.
        StorageError: It cannot be read.
    """
    if not path.is_file():
        raise ArtifactNotFoundError("there is no such file", where=str(path), hint="check the path")
    with storage_errors(path, "read the file"):
        _check_size(path.stat().st_size, manifest, str(path))
        with path.open("rb") as file:
            content = file.read(most_update_bytes(manifest) + 1)  # it may have grown since
    return decode_update(content, manifest, method, artifact, where=str(path))


def _check_size(size: int, manifest: Manifest, where: str) -> None:
    largest = most_update_bytes(manifest)
    if size > largest:
        raise _refused(f"{size} bytes, an update has at most {largest}", where)


def _info(metadata: Mapping[str, str], artifact: str, where: str) -> UpdateInfo:
    complaint = _complaint(metadata)
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


def _complaint(metadata: Mapping[str, str]) -> str | None:
    """What is wrong with the metadata of an update; None: nothing."""
    patterns = {
        "task": _TASK,
        "artifact": _DIGEST,
        "version": _DECIMAL,
        "examples": _DECIMAL,
        "steps": _DECIMAL,
    }
    for key, value in _FIXED.items():
        if metadata.get(key) != value:
            return f"metadata {key!r} is {str(metadata.get(key))[:64]!r}, expected {value!r}"
    for key, pattern in patterns.items():
        if not pattern.fullmatch(metadata.get(key, "")):
            found = str(metadata.get(key))[:64]
            return f"metadata {key!r} is {found!r}, expected {pattern.pattern}"
    more = sorted(metadata.keys() - _FIXED.keys() - patterns.keys())
    return f"metadata {more[0][:64]!r} is not known" if more else None


def _layers(method: Method) -> list[str]:
    return [
        segment.layer
        for segment in method.layout.segments
        if segment.role is Role.CORE and segment.layer is not None
    ]


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


def _checked_tensors(
    content: bytes | memoryview, header: TensorHeader, method: Method, where: str
) -> dict[str, NDArray[Any]]:
    """The tensors of a file whose header was checked: their numbers are finite, their heads are heads."""
    tensors = tensors_of(content, header, HEADS_BOUNDS, where=where)
    for segment in method.layout.segments:
        name = f"{segment.layer}{_HEADS}"
        if segment.role is Role.CORE and name in tensors:
            _check_heads(tensors[name], segment.shape[0], f"{where}: {name}")
    return tensors


def _check_heads(heads: HeadIndices, count: int, where: str) -> None:
    # Compared, not subtracted: a difference of two int32 can wrap around.
    ascending = bool(np.all(heads[1:] > heads[:-1]))
    if not ascending or heads[0] < 0 or heads[-1] >= count:
        raise _refused(f"heads {heads.tolist()}, expected ascending numbers below {count}", where)


def _refused(message: str, where: str) -> ArtifactError:
    return ArtifactError(message, where=where, hint="train again from the version the server has")
