"""The residual of error feedback as a file: what biased codecs left out of one device's updates."""

from __future__ import annotations

from pathlib import Path

from ravan_edge.artifact import HEADS_BOUNDS, read_header, read_tensors, write_tensors
from ravan_edge.errors import ArtifactError
from ravan_edge.methods import Vector

__all__ = ["is_residual", "read_residual", "write_residual"]

_TENSOR = "residual"
_FORMAT = "ravan-residual"


def write_residual(path: Path, residual: Vector, artifact: str) -> None:
    """Write a residual, atomically and durably.

    Args:
        path: The file.
        residual: Float32 [parameters].
        artifact: The digest of the artifact that it belongs to.

    Raises:
        StorageError: The disk is full, or the like.
    """
    write_tensors(path, {_TENSOR: residual}, {"format": _FORMAT, "artifact": artifact})


def read_residual(path: Path, artifact: str, size: int) -> Vector | None:
    """What :func:`write_residual` wrote; None: nothing, or not for this artifact.

    Args:
        path: The file.
        artifact: The digest of the artifact.
        size: How many parameters it has.

    Raises:
        StorageError: The file cannot be read.
    """
    if not is_residual(path, artifact):
        return None
    try:
        return read_tensors(path, HEADS_BOUNDS, {_TENSOR: ("F32", (size,))})[_TENSOR]
    except ArtifactError:
        return None


def is_residual(path: Path, artifact: str) -> bool:
    """Whether a file is a residual of an artifact, as far as its header says."""
    if not path.exists():
        return False
    try:
        metadata = read_header(path, HEADS_BOUNDS).metadata
    except ArtifactError:
        return False  # somebody changed it: without it the next update is as good as any first one
    return (metadata.get("format"), metadata.get("artifact")) == (_FORMAT, artifact)
