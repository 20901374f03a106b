"""From a closed attempt to the next version of the heads: exact, and a function of what was stored."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ravan_edge.artifact import heads_metadata, load_heads, tensors_to_bytes
from ravan_edge.errors import ArtifactNotFoundError, StorageError
from ravan_edge.files import storage_errors
from ravan_edge.merge import (
    Gathered,
    Gathering,
    MergeScale,
    MergeSettings,
    Moments,
    merge,
    sum_updates,
)
from ravan_edge.methods import Vector
from ravan_server.moments_file import moments_to_bytes, read_moments
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
        self._scratch = parts.scratch

    def merge(
        self, attempt: Attempt, updates: Iterable[StoredUpdate], heads: VersionRow, now: float
    ) -> VersionRow:
        """The next version; its files are durable, the store does not know it yet.

        One update is in memory at a time; each is compared with its digest and then checked again in
        full. Doing it again gives the same bytes.

        Raises:
            StorageError: The disk is full, or an update is not what was stored.
        """
        stored = list(updates)
        settings = attempt.settings.merging
        with storage_errors(self._scratch, "make the folder"):
            shutil.rmtree(self._scratch, ignore_errors=True)
            if settings.is_robust:
                self._scratch.mkdir()
        before = self._moments(heads)
        gathered = self._gathered(settings, stored, attempt.scale)
        merged = merge(settings, self._method, self._vector(heads), gathered, before)
        moments = self._put_moments(merged.moments, heads.version + 1)
        content = tensors_to_bytes(
            self._method.layout.views(merged.heads),
            heads_metadata(heads.version + 1, self._artifact.digest),
        )
        return VersionRow(
            version=heads.version + 1,
            heads=self._blobs.put(content),
            bytes=len(content),
            attempt=attempt.id,
            updates=len(stored),
            made_at=now,
            heads_kept=merged.kept,
            moments=moments,
        )

    def _gathered(
        self, settings: MergeSettings, stored: Sequence[StoredUpdate], scale: MergeScale
    ) -> Gathered:
        """The differences that were stored, or their sum."""
        contents, weights = self._contents(stored), [update.weight for update in stored]
        if not settings.is_robust and settings.max_norm is None:
            return sum_updates(contents, self._reader, scale, weights)
        gathering = Gathering(settings, self._method, scale, self._scratch / "differences")
        for (where, content), weight in zip(contents, weights, strict=True):
            update = self._reader.decode(content, where=where)
            gathering.add(update.difference, update.mask, weight)
        return gathering.finished()

    def _moments(self, heads: VersionRow) -> Moments | None:
        """What the optimiser of the version before remembers."""
        if heads.moments is None:
            return None
        return read_moments(self._path(heads.moments, heads.version), self._method.layout.size)

    def copy(self, source: VersionRow, version: int, now: float) -> VersionRow:
        """An older version's heads as a new version, and what its optimiser remembered; durable.

        Raises:
            StorageError: The disk is full, or the like.
        """
        content = tensors_to_bytes(
            self._method.layout.views(self._vector(source)),
            heads_metadata(version, self._artifact.digest),
        )
        digest = self._blobs.put(content)
        moments = self._put_moments(self._moments(source), version)
        return VersionRow(
            version,
            digest,
            len(content),
            None,
            0,
            now,
            copy_of=source.version,
            moments=moments,
        )

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

    def _put_moments(self, moments: Moments | None, version: int) -> str | None:
        return None if moments is None else self._blobs.put(moments_to_bytes(moments, version))

    def _vector(self, heads: VersionRow) -> Vector:
        path = self._path(heads.heads, heads.version)
        tensors = load_heads(path, self._artifact.manifest, self._artifact.digest)
        return self._method.layout.pack(tensors)

    def _path(self, digest: str, version: int) -> Path:
        path = self._blobs.path(digest)
        if path is None:
            raise ArtifactNotFoundError(
                f"a file of version {version} is gone",
                where=digest,
                hint="restore a backup of the state folder",
            )
        return path
