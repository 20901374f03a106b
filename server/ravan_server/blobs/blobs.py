"""Immutable content by its sha256: what devices download."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Protocol

from ravan_edge.artifact import MANIFEST_NAME, Artifact
from ravan_edge.files import storage_errors, sync_folder, write_atomic

__all__ = ["DIGEST", "ArtifactBlobs", "Blobs", "FolderBlobs"]

DIGEST = re.compile(r"[0-9a-f]{64}")
"""What blobs are called."""


class Blobs(Protocol):
    """Where blobs are kept."""

    def put(self, content: bytes) -> str:
        """Keep content durably; its sha256. Putting it again changes nothing.

        Raises:
            StorageError: The disk is full, or the like.
        """
        ...

    def claim(self, run: str) -> None:
        """What is kept here belongs to this run; saying so again changes nothing.

        Raises:
            UsageError: It belongs to another one.
        """
        ...

    def path(self, digest: str) -> Path | None:
        """A file with the content; None: it is not here. It may have to be fetched.

        Raises:
            StorageError: It could not be fetched, or is not what was stored.
        """
        ...

    def cached(self, digest: str) -> Path | None:
        """The same without waiting; None: it is not here, or would have to be fetched."""
        ...

    def delete(self, digest: str) -> None:
        """It is not needed any more. Deleting it again changes nothing."""
        ...

    def keep(self, digests: AbstractSet[str]) -> None:
        """Delete all others. Nobody may be putting one.

        Raises:
            StorageError: One cannot be deleted.
        """
        ...

    def forget_copies(self, wanted: AbstractSet[str]) -> None:
        """Delete copies of all others on this machine; the blobs themselves stay where they are kept.

        Raises:
            StorageError: One cannot be deleted.
        """
        ...


class FolderBlobs:
    """One file for each blob, called by its digest.

    Raises:
        StorageError: The folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with storage_errors(folder, "make the folder"):
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)  # or a loss of power takes it, and all that is in it
            for left in folder.glob(".*.tmp"):  # of a process that was killed
                left.unlink(missing_ok=True)

    def claim(self, run: str) -> None:
        """Nothing to do: whoever has the folder's lock has it."""

    def put(self, content: bytes) -> str:
        """Keep content durably; its sha256. Putting it again changes nothing."""
        digest = hashlib.sha256(content).hexdigest()
        path = self._folder / digest
        if path.exists():
            # Written before, perhaps by a process that was killed before its last sync.
            with storage_errors(path, "sync the file"):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                sync_folder(self._folder)
        else:
            write_atomic(path, [content])
        return digest

    def path(self, digest: str) -> Path | None:
        """A file with the content; None: it is not here."""
        path = self._folder / digest
        return path if path.is_file() else None

    def cached(self, digest: str) -> Path | None:
        """The same."""
        return self.path(digest)

    def delete(self, digest: str) -> None:
        """It is not needed any more. Deleting it again changes nothing."""
        path = self._folder / digest
        with storage_errors(path, "delete the file"):
            path.unlink(missing_ok=True)

    def keep(self, digests: AbstractSet[str]) -> None:
        """Delete all others. Nobody may be putting one."""
        with storage_errors(self._folder, "tidy the folder"):
            for path in self._folder.iterdir():
                if DIGEST.fullmatch(path.name) and path.name not in digests:
                    path.unlink(missing_ok=True)

    def forget_copies(self, wanted: AbstractSet[str]) -> None:
        """Nothing to do: there are none."""


class ArtifactBlobs:
    """The files of an artifact by their digests, without a copy. Its manifest is one of them."""

    def __init__(self, artifact: Artifact) -> None:
        files: Mapping[str, str] = {
            entry.sha256: name for name, entry in artifact.manifest.files.items()
        }
        self._files = {**files, artifact.digest: MANIFEST_NAME}
        self._folder = artifact.folder

    def path(self, digest: str) -> Path | None:
        """A file with the content; None: it is no file of the artifact."""
        name = self._files.get(digest)
        return None if name is None else self._folder / name
