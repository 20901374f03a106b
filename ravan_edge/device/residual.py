"""The residual of error feedback on disk: what biased codecs left out of this device's updates.

It belongs to one artifact. What it becomes is prepared in the folder of the round, for either answer of
the server, before the update is sent; the answer then costs one rename. Whatever is killed in between
finds the task still there, sends again, gets the same answer, and renames what is left to rename.
"""

from __future__ import annotations

from pathlib import Path

from ravan_edge.files import storage_errors, sync_folder
from ravan_edge.methods import Vector
from ravan_edge.protocol import Residuals, is_residual, read_residual, write_residual

__all__ = ["DeviceResidual"]

_NAME = "residual.safetensors"


class DeviceResidual:
    """A device's residual.

    Args:
        folder: The device's.
        round: The folder of its round.
    """

    def __init__(self, folder: Path, round: Path) -> None:
        self._path = folder / _NAME
        self._prepared = {
            acknowledged: round / f"residual-{name}.safetensors"
            for acknowledged, name in ((True, "acknowledged"), (False, "refused"))
        }

    def load(self, artifact: str, size: int) -> Vector | None:
        """What to add to the next difference, float32 [parameters]; None: nothing.

        Args:
            artifact: The digest of the artifact that is trained.
            size: How many parameters it has.

        Raises:
            StorageError: The file cannot be read.
        """
        return read_residual(self._path, artifact, size)

    def drop_unless(self, artifact: str) -> None:
        """Let a residual of another artifact go: it says nothing about this one.

        Raises:
            StorageError: It cannot be deleted.
        """
        if self._path.exists() and not is_residual(self._path, artifact):
            with storage_errors(self._path, "delete the file"):
                self._path.unlink()

    def prepare(self, residuals: Residuals, artifact: str) -> None:
        """Write down what the residual becomes with either answer. Before the update is written.

        Raises:
            StorageError: The disk is full, or the like.
        """
        write_residual(self._prepared[True], residuals.acknowledged, artifact)
        write_residual(self._prepared[False], residuals.refused, artifact)

    def settle(self, *, acknowledged: bool) -> None:
        """The server has answered. Before the task is forgotten; doing it again is harmless.

        Raises:
            StorageError: The disk fails.
        """
        prepared = self._prepared[acknowledged]
        if not prepared.exists():  # an unbiased codec; or it was done before a kill
            return
        with storage_errors(self._path, "replace the file"):
            prepared.replace(self._path)
            sync_folder(self._path.parent)
