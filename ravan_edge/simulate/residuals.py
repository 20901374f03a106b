"""Residuals of error feedback of all devices of a run: files, since they would not fit in memory.

A device's residual has as many numbers as the heads. It is read and written by the worker that trains the
device, in ``residuals/<device>/<merge>-<version>.safetensors``: ``version`` is the one it trained
from, and ``merge`` the one that was the latest when its update was merged. A round that was not
committed is done again after a kill, and must not see what it wrote itself: it reads the newest file
before its own name. Files of committed rounds that are not needed any more are deleted by the next one.
"""

from __future__ import annotations

from pathlib import Path

from ravan_edge.files import storage_errors
from ravan_edge.methods import Vector
from ravan_edge.protocol import read_residual, write_residual

__all__ = ["RESIDUALS_FOLDER", "RunResiduals"]

RESIDUALS_FOLDER = "residuals"

_SUFFIX = ".safetensors"
_Moment = tuple[int, int]


class RunResiduals:
    """The residuals of a run.

    Args:
        folder: Made where it is missing.
        artifact: The digest of the artifact that is trained.
        size: How many parameters it has.
    """

    def __init__(self, folder: Path, artifact: str, size: int) -> None:
        self._folder = folder
        self._artifact = artifact
        self._size = size

    def load(self, device: int, merge: int, version: int) -> Vector | None:
        """What a device adds to its difference, float32 [parameters]; None: nothing yet.

        Args:
            device: Its number.
            merge: The latest version.
            version: The version that it trained from.

        Raises:
            StorageError: The file cannot be read.
        """
        earlier = self._earlier(device, (merge, version))
        if not earlier:
            return None
        return read_residual(self._path(device, earlier[-1]), self._artifact, self._size)

    def keep(self, device: int, merge: int, version: int, residual: Vector) -> None:
        """Make a device's residual durable; arguments as for :meth:`load`.

        Raises:
            StorageError: The disk is full, or the like.
        """
        path = self._path(device, (merge, version))
        with storage_errors(path.parent, "make the folder"):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_residual(path, residual, self._artifact)
        # Of earlier rounds, which are committed, only the newest can be asked for again.
        earlier = [
            moment for moment in self._earlier(device, (merge, version)) if moment[0] < merge
        ]
        with storage_errors(path.parent, "delete a file"):
            for moment in earlier[:-1]:
                self._path(device, moment).unlink(missing_ok=True)

    def _earlier(self, device: int, before: _Moment) -> list[_Moment]:
        """When a device's residuals before this one were made, ascending."""
        folder = self._folder / str(device)
        with storage_errors(folder, "read the folder"):
            names = [path.name for path in folder.iterdir()] if folder.exists() else []
        found = []
        for name in names:
            merge, _, version = name.removesuffix(_SUFFIX).partition("-")
            if name.endswith(_SUFFIX) and merge.isdecimal() and version.isdecimal():
                found.append((int(merge), int(version)))
        return sorted(moment for moment in found if moment < before)

    def _path(self, device: int, moment: _Moment) -> Path:
        return self._folder / str(device) / f"{moment[0]}-{moment[1]}{_SUFFIX}"
