"""From a closed attempt to the next version of the heads: exact, and a function of what was stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from ravan_edge.artifact import Artifact, heads_metadata, load_heads, tensors_to_bytes
from ravan_edge.errors import ArtifactNotFoundError, StorageError
from ravan_edge.merge import ExactSum
from ravan_edge.methods import Method, Vector
from ravan_edge.protocol import decode_update
from ravan_server.blobs import Blobs, UpdateLog
from ravan_server.rounds import Attempt
from ravan_server.store import StoredUpdate, VersionRow

__all__ = ["Merger"]


class Merger:
    """Merges attempts of one artifact.

    Args:
        artifact: What devices train.
        method: Its method.
        blobs: Where heads files are.
        log: Where updates are.
    """

    def __init__(self, artifact: Artifact, method: Method, blobs: Blobs, log: UpdateLog) -> None:
        self._artifact = artifact
        self._method = method
        self._blobs = blobs
        self._log = log

    def merge(
        self, attempt: Attempt, updates: Iterable[StoredUpdate], heads: VersionRow, now: float
    ) -> VersionRow:
        """The next version; its heads file is durable, the store does not know it yet.

        One update is in memory at a time. Doing it again gives the same bytes.

        Raises:
            StorageError: The disk is full, or an update is not what was stored.
        """
        total = ExactSum.empty(self._method.layout.size, attempt.scale)
        count = 0
        for stored in updates:
            self._add(total, stored)
            count += 1
        merged = total.apply(self._vector(heads))
        content = tensors_to_bytes(
            self._method.layout.views(merged),
            heads_metadata(heads.version + 1, self._artifact.digest),
        )
        return VersionRow(
            version=heads.version + 1,
            heads=self._blobs.put(content),
            bytes=len(content),
            attempt=attempt.id,
            updates=count,
            made_at=now,
        )

    def copy(self, source: VersionRow, version: int, now: float) -> VersionRow:
        """An older version's heads as a new version; its heads file is durable.

        Raises:
            StorageError: The disk is full, or the like.
        """
        content = tensors_to_bytes(
            self._method.layout.views(self._vector(source)),
            heads_metadata(version, self._artifact.digest),
        )
        digest = self._blobs.put(content)
        return VersionRow(version, digest, len(content), None, 0, now, copy_of=source.version)

    def _add(self, total: ExactSum, stored: StoredUpdate) -> None:
        where = f"{stored.segment}, byte {stored.offset}"
        content = self._log.read(stored.segment, stored.offset, stored.bytes)
        if hashlib.sha256(content).hexdigest() != stored.sha256:
            raise StorageError(
                "an update is not what was stored",
                where=where,
                hint="the disk damaged it: restore a backup of the state folder",
            )
        update = decode_update(
            content,
            self._artifact.manifest,
            self._method,
            self._artifact.digest,
            where=where,
        )
        total.add(update.difference, update.mask)

    def _vector(self, heads: VersionRow) -> Vector:
        path = self._blobs.path(heads.heads)
        if path is None:
            raise ArtifactNotFoundError(
                f"the heads of version {heads.version} are gone",
                where=heads.heads,
                hint="restore a backup of the state folder",
            )
        tensors = load_heads(path, self._artifact.manifest, self._artifact.digest)
        return self._method.layout.pack(tensors)
