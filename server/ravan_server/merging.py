"""From a closed attempt to the next version of the heads: exact, and a function of what was stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from ravan_edge.artifact import heads_metadata, load_heads, tensors_to_bytes
from ravan_edge.errors import ArtifactNotFoundError, StorageError
from ravan_edge.merge import sum_updates
from ravan_edge.methods import Vector
from ravan_server.parts import Parts
from ravan_server.rounds import Attempt
from ravan_server.store import StoredUpdate, VersionRow

__all__ = ["Merger"]


class Merger:
    """Makes versions.

    Args:
        parts: The run.
    """

    def __init__(self, parts: Parts) -> None:
        self._artifact = parts.artifact
        self._method = parts.method
        self._reader = parts.reader
        self._blobs = parts.blobs
        self._log = parts.log

    def merge(
        self, attempt: Attempt, updates: Iterable[StoredUpdate], heads: VersionRow, now: float
    ) -> VersionRow:
        """The next version; its heads file is durable, the store does not know it yet.

        One update is in memory at a time; each is compared with its digest and then checked again in
        full. Doing it again gives the same bytes.

        Raises:
            StorageError: The disk is full, or an update is not what was stored.
        """
        stored = list(updates)
        weights = [update.weight for update in stored]
        total = sum_updates(self._contents(stored), self._reader, attempt.scale, weights)
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
            updates=len(stored),
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

    def _contents(self, updates: Sequence[StoredUpdate]) -> Iterator[tuple[str, memoryview]]:
        """The bytes of each update, once they are what was acknowledged: a disk may have changed them."""
        for stored, (where, content) in zip(updates, self._log.contents(updates), strict=True):
            if hashlib.sha256(content).hexdigest() != stored.sha256:
                raise StorageError(
                    "an update is not what was stored",
                    where=where,
                    hint="restore a backup, or `ravan heads rollback` to the latest version: "
                    "that drops the round's updates",
                )
            yield where, content

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
