"""Blobs in an S3-compatible store, with a copy of each in a folder, from which devices are served."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Set as AbstractSet
from pathlib import Path

from ravan_edge.errors import StorageError, UsageError
from ravan_edge.files import storage_errors, write_atomic
from ravan_server.blobs.blobs import DIGEST, FolderBlobs
from ravan_server.blobs.bucket import Bucket

__all__ = ["S3Blobs"]

_FOLDER = "blobs"
_OWNER = "run"
_PATIENCE_SECONDS = 2.0


class S3Blobs:
    """One object ``blobs/<sha256>`` for each blob.

    The folder is a copy that may be lost: what is missing in it is fetched, and looked at, when it is asked
    for.

    Args:
        bucket: Where they are.
        folder: Of the copies.

    Raises:
        StorageError: The folder cannot be made.
    """

    def __init__(self, bucket: Bucket, folder: Path) -> None:
        self._bucket = bucket
        self._copies = FolderBlobs(folder)
        self._folder = folder
        self._fetching = threading.Lock()

    def claim(self, run: str) -> None:
        """This part of the bucket is this run's, once and for all.

        Raises:
            UsageError: It is another's, whose updates would be deleted.
        """
        found = self._bucket.read(_OWNER)
        if found is None:
            self._bucket.put(_OWNER, run.encode())
        elif found != run.encode():
            raise UsageError(
                "there is another run in it",
                where=self._bucket.name(_OWNER).rsplit("/", 1)[0],
                hint="name another prefix with --objects, or the state that this one belongs to",
            )

    def put(self, content: bytes) -> str:
        """Keep content durably; its sha256. Putting it again changes nothing."""
        digest = hashlib.sha256(content).hexdigest()
        self._bucket.put(f"{_FOLDER}/{digest}", content)
        self._copies.put(content)
        return digest

    def cached(self, digest: str) -> Path | None:
        """A file with the content; None: it is not here, or not in the folder."""
        return self._copies.path(digest)

    def path(self, digest: str) -> Path | None:
        """A file with the content, fetched where it has to be; None: it is not here."""
        path = self.cached(digest)
        if path is not None or not DIGEST.fullmatch(digest):
            return path
        # One at a time: who asks for what cannot be had must not keep all threads of the server.
        if not self._fetching.acquire(timeout=_PATIENCE_SECONDS):
            raise StorageError(
                "another blob is being fetched",
                where=self._bucket.name(f"{_FOLDER}/{digest}"),
                hint="ask again in a moment",
            )
        try:
            return self.cached(digest) or self._fetch(digest)
        finally:
            self._fetching.release()

    def delete(self, digest: str) -> None:
        """It is not needed any more. Deleting it again changes nothing."""
        self._bucket.delete([f"{_FOLDER}/{digest}"])
        self._copies.delete(digest)

    def keep(self, digests: AbstractSet[str]) -> None:
        """Delete all others. Nobody may be putting one."""
        found = self._bucket.list(_FOLDER)
        self._bucket.delete([key for key in found if key.rsplit("/", 1)[-1] not in digests])
        self._copies.keep(digests)

    def forget_copies(self, wanted: AbstractSet[str]) -> None:
        """Delete copies of all others on this machine."""
        self._copies.keep(wanted)

    def _fetch(self, digest: str) -> Path | None:
        key = f"{_FOLDER}/{digest}"
        content = self._bucket.read(key)
        if content is None:
            return None
        if hashlib.sha256(content).hexdigest() != digest:
            raise StorageError(
                "a blob is not what was stored",
                where=self._bucket.name(key),
                hint="restore it from a backup of the bucket, or an earlier version of the object",
            )
        path = self._folder / digest
        with storage_errors(path, "write the file"):
            write_atomic(path, [content])
        return path
