"""What a server's optimiser remembers, as a tensor file beside the heads."""

from __future__ import annotations

from pathlib import Path

from ravan_edge.artifact import HEADS_BOUNDS, read_header, read_tensors, tensors_to_bytes
from ravan_edge.errors import StorageError
from ravan_edge.merge import Moments, ServerOptimizerName

__all__ = ["moments_to_bytes", "read_moments"]

_FORMAT = {"format": "ravan-moments", "schema": "1"}


def moments_to_bytes(moments: Moments, version: int) -> bytes:
    """The bytes of the file: a tensor for each moment, float32 or int32 [parameters].

    Args:
        moments: After the merge, or of an older version that was gone back to.
        version: Whose they are. No two versions share a file, so each can be deleted with its own.
    """
    metadata = _FORMAT | {"optimizer": str(moments.optimizer), "version": str(version)}
    return tensors_to_bytes(moments.tensors, metadata)


def read_moments(path: Path, parameters: int) -> Moments:
    """What :func:`moments_to_bytes` wrote.

    Raises:
        StorageError: It is no such file, or one of another artifact.
        TensorFileError: It is no tensor file.
    """
    header = read_header(path, HEADS_BOUNDS)
    name = header.metadata.get("optimizer")
    known = {key: header.metadata.get(key) for key in _FORMAT}
    shapes = {spec.shape for spec in header.specs.values()}
    if known != _FORMAT or name not in list(ServerOptimizerName) or shapes != {(parameters,)}:
        raise StorageError(
            f"no moments of {parameters} numbers: format {known['format']!r}, shapes {sorted(shapes)}",
            where=str(path),
            hint="restore a backup of the state folder",
        )
    return Moments(ServerOptimizerName(name), dict(read_tensors(path, HEADS_BOUNDS)))
