"""Heads files: the whole trainable state, folded (docs/artifact.md, section 3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.manifest import Manifest, Role
from ravan_edge.artifact.tensor_file import (
    HEADS_BOUNDS,
    TensorHeader,
    read_header,
    read_tensors,
    write_tensors,
)
from ravan_edge.errors import ArtifactError, TensorFileError

if TYPE_CHECKING:
    from ravan_edge.artifact.opening import Artifact

__all__ = [
    "check_heads_header",
    "expected_heads",
    "heads_metadata",
    "heads_version",
    "load_heads",
    "read_heads",
    "write_heads",
]

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,17}")


def expected_heads(manifest: Manifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names, dtypes and shapes of a heads file: exactly the tensor table."""
    return {entry.name: ("F32", entry.shape) for entry in manifest.tensors}


def heads_metadata(version: int, digest: str | None) -> dict[str, str]:
    """Metadata of a heads file; ``digest`` is None for an artifact's own initial heads."""
    metadata = {"format": "ravan-heads", "schema": "1", "version": str(version)}
    return metadata if digest is None else metadata | {"artifact": digest}


def check_heads_header(header: TensorHeader, digest: str | None, where: str) -> int:
    """Check the metadata of a heads file; the version it holds.

    Raises:
        ArtifactError: It is no heads file, or it belongs to another artifact.
    """
    metadata = header.metadata
    found = {key: metadata.get(key) for key in ("format", "schema")}
    if found != {"format": "ravan-heads", "schema": "1"}:
        raise ArtifactError(
            f"not a heads file: format {found['format']!r}, schema {found['schema']!r}, "
            "expected 'ravan-heads', '1'",
            where=where,
            hint="name a file that `ravan train` or `ravan simulate` saved",
        )
    if not _DECIMAL.fullmatch(metadata.get("version", "")):
        raise ArtifactError(
            f"version {metadata.get('version')!r} in its metadata is no decimal number", where=where
        )
    if "artifact" in metadata and metadata["artifact"] != digest:
        raise ArtifactError(
            f"belongs to another artifact: {metadata['artifact'][:64]!r}, this is {digest!r}",
            where=where,
            hint="use it with the artifact it was trained from",
        )
    return int(metadata["version"])


def load_heads(path: Path, manifest: Manifest, digest: str | None) -> dict[str, NDArray[Any]]:
    """Read and check a heads file: name -> float32 array, in the order of the tensor table.

    Raises:
        TensorFileError: Names, dtypes, shapes or values are not those of the tensor table.
        ArtifactError: It is no heads file, or it belongs to another artifact.
        ArtifactNotFoundError: There is no such file.
    """
    where = str(path)
    # The artifact first: heads of another one mostly differ in shape too, and that would hide it.
    check_heads_header(read_header(path, HEADS_BOUNDS, where=where), digest, where)
    tensors = read_tensors(path, HEADS_BOUNDS, expected_heads(manifest), where=where)
    _check_folded(tensors, manifest, where)
    return {entry.name: tensors[entry.name] for entry in manifest.tensors}


def read_heads(path: Path, artifact: Artifact) -> dict[str, NDArray[Any]]:
    """The heads saved in ``path``: name -> float32 array, in the order of the tensor table.

    Raises:
        TensorFileError: Names, dtypes, shapes or values are not those of the tensor table.
        ArtifactError: It is no heads file, or it belongs to another artifact.
        ArtifactNotFoundError: There is no such file.
    """
    return load_heads(path, artifact.manifest, artifact.digest)


def heads_version(path: Path, artifact: Artifact) -> int:
    """The version of the heads saved in ``path``: the number of merges behind them.

    Raises:
        ArtifactError: It is no heads file, or it belongs to another artifact.
    """
    return check_heads_header(read_header(path, HEADS_BOUNDS), artifact.digest, str(path))


def write_heads(
    path: Path,
    artifact: Artifact,
    tensors: Mapping[str, NDArray[Any]],
    version: int,
    *,
    durable: bool = True,
) -> None:
    """Save folded heads atomically.

    Args:
        path: Its folder must exist.
        artifact: The artifact they were trained from.
        tensors: Exactly those of the tensor table, float32; every ``<layer>.s`` is 1.
        version: How many merges are behind them.
        durable: Whether the file must survive a loss of power.

    Raises:
        TensorFileError: Other tensors or shapes than in the table, not finite, or not folded.
        StorageError: The disk is full, or the like.
    """
    where = str(path)
    expected = expected_heads(artifact.manifest)
    if tensors.keys() != expected.keys():
        names = sorted(tensors.keys() ^ expected.keys())
        raise TensorFileError(
            "is missing, or not in the tensor table", where=f"{where}: {names[0]}"
        )
    for name, (_, shape) in expected.items():
        array = tensors[name]
        if array.dtype != np.float32 or array.shape != shape or not np.isfinite(array).all():
            raise TensorFileError(
                f"is {array.dtype} {list(array.shape)}, expected finite float32 {list(shape)}",
                where=f"{where}: tensor {name!r}",
            )
    _check_folded(tensors, artifact.manifest, where)
    write_tensors(path, tensors, heads_metadata(version, artifact.digest), durable=durable)


def _check_folded(tensors: Mapping[str, NDArray[Any]], manifest: Manifest, where: str) -> None:
    for entry in manifest.tensors:
        if entry.role is Role.SCALE and not (tensors[entry.name] == 1).all():
            raise TensorFileError(
                "saved heads are folded: every scale must be 1",
                where=f"{where}: tensor {entry.name!r}",
                hint="fold s into H (H <- s H, s <- 1) before saving",
            )
