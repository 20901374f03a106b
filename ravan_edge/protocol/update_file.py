"""The update file: what a device uploads after a round (docs/artifact.md, section 8)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact import Manifest, Role, tensors_to_bytes
from ravan_edge.codecs import CodecName, CodedTensors
from ravan_edge.methods import Method, Training, Vector
from ravan_edge.protocol.update_info import DIFFERENCE, HEADS, UpdateInfo, complaint_about
from ravan_edge.protocol.update_reader import Update, UpdateReader

__all__ = ["decode_update", "encode_coded_update", "encode_update", "read_update"]


def encode_update(
    info: UpdateInfo, method: Method, difference: Vector, training: Training
) -> bytes:
    """The bytes of an update file whose numbers are float32.

    Args:
        info: Metadata, of codec ``fp32``.
        method: What trained.
        difference: Float32 [parameters], as :func:`ravan_edge.training.local_round` returns it.
        training: What trained; heads that did not are left out.

    Raises:
        ValueError: The metadata break the format.
    """
    metadata = _checked_metadata(info)
    if info.codec is not CodecName.FP32:
        raise ValueError(f"codec {info.codec} writes its numbers itself")
    tensors: dict[str, NDArray[Any]] = {}
    for segment in method.layout.segments:
        values = difference[segment.place].reshape(segment.shape)
        if segment.role is Role.CORE and segment.layer is not None:
            heads = training.trained[segment.layer]
            if heads.size:
                tensors[f"{segment.layer}{DIFFERENCE}"] = values[heads]
                tensors[f"{segment.layer}{HEADS}"] = heads.astype(np.int32)
        elif segment.role is not Role.SCALE:
            tensors[segment.name] = values
    return tensors_to_bytes(tensors, metadata)


def encode_coded_update(info: UpdateInfo, training: Training, coded: CodedTensors) -> bytes:
    """The bytes of an update file whose numbers a codec wrote.

    Args:
        info: Metadata, of that codec.
        training: What trained.
        coded: Of the numbers, in their order: see :func:`ravan_edge.protocol.code_difference`.

    Raises:
        ValueError: The metadata break the format.
    """
    metadata = _checked_metadata(info)
    tensors: dict[str, NDArray[Any]] = dict(coded)
    for layer, heads in training.trained.items():
        if heads.size:
            tensors[f"{layer}{HEADS}"] = heads.astype(np.int32)
    return tensors_to_bytes(tensors, metadata)


def _checked_metadata(info: UpdateInfo) -> dict[str, str]:
    metadata = info.metadata()
    complaint = complaint_about(metadata)
    if complaint is not None:
        raise ValueError(complaint)
    return metadata


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
