"""Uploads in an S3-compatible store: those that share a commit are one object, put when that commits.

An object is a segment as in a folder (``update_log.py``): updates of one attempt, one behind the other,
each at a multiple of 64 bytes. It is put whole or not at all, and never changed.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from ravan_edge.errors import StorageError
from ravan_server.blobs.bucket import Bucket
from ravan_server.blobs.update_log import padding_bytes
from ravan_server.store.rows import StoredUpdate

__all__ = ["S3UpdateLog"]

_FOLDER = "updates"
_SEGMENT_BYTES = 32 << 20  # one is in memory twice while it is put
_READERS = 8
_AHEAD_BYTES = 32 << 20
_PROCESS_BYTES = 8


class S3UpdateLog:
    """Segments as objects ``updates/<attempt>/<attempt>-<process>-<number>.updates``.

    Args:
        bucket: Where they are.
        segment_bytes: A segment that has so many is followed by another one.
    """

    def __init__(self, bucket: Bucket, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self._bucket = bucket
        self._segment_bytes = segment_bytes
        self._process = secrets.token_hex(_PROCESS_BYTES)
        self._number = 0
        self._segments: dict[str, list[bytes | bytearray]] = {}
        self._attempt = 0
        self._name = ""
        self._end = 0
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="updates")

    def recover(self, attempt: int, ends: Mapping[str, int]) -> None:
        """After a start: delete what the store does not know."""
        wanted = {_key(name) for name in ends if name.startswith(f"{attempt}-")}
        self._bucket.delete([key for key in self._bucket.list(_FOLDER) if key not in wanted])

    def append(self, attempt: int, content: bytes | bytearray) -> tuple[str, int]:
        """Take an update; it is durable after :meth:`sync`. Its segment and offset."""
        if not self._name or attempt != self._attempt or self._end >= self._segment_bytes:
            self._number += 1
            self._name = f"{attempt}-{self._process}-{self._number}.updates"
            self._attempt, self._end = attempt, 0
        offset = self._end
        padding = padding_bytes(len(content))
        self._segments.setdefault(self._name, []).extend((content, bytes(padding)))
        self._end += len(content) + padding
        return self._name, offset

    def sync(self) -> None:
        """Make all that was appended durable."""
        for name, parts in self._segments.items():
            self._bucket.put(_key(name), b"".join(parts))
        self._segments.clear()
        self._name = ""

    def give_up(self) -> None:
        """What was appended since the last sync is not wanted, or cannot be trusted."""
        put = [_key(name) for name in self._segments]  # perhaps: an answer may have been lost
        self._segments.clear()
        self._name = ""
        with suppress(StorageError):  # else the next start, or the end of the attempt, does it
            self._bucket.delete(put)

    def contents(self, updates: Sequence[StoredUpdate]) -> Iterator[tuple[str, memoryview]]:
        """How errors call each update, and its bytes: some are fetched ahead, within a bound."""
        waiting: deque[tuple[StoredUpdate, Future[memoryview]]] = deque()
        coming, ahead = deque(updates), 0
        try:
            while coming or waiting:
                while coming and len(waiting) < _READERS:
                    if waiting and ahead + coming[0].bytes > _AHEAD_BYTES:
                        break
                    stored = coming.popleft()
                    ahead += stored.bytes
                    waiting.append((stored, self._readers.submit(self._read, stored)))
                stored, reading = waiting.popleft()
                yield (
                    f"{self._bucket.name(_key(stored.segment))}, byte {stored.offset}",
                    reading.result(),
                )
                ahead -= stored.bytes
        finally:
            for _, reading in waiting:
                reading.cancel()

    def drop(self, attempt: int) -> None:
        """Delete all segments of an attempt."""
        self._bucket.delete(self._bucket.list(f"{_FOLDER}/{attempt}"))

    def close(self) -> None:
        """Nothing goes on after this."""
        self.give_up()
        self._readers.shutdown(cancel_futures=True)

    def _read(self, stored: StoredUpdate) -> memoryview:
        content = self._bucket.read_range(_key(stored.segment), stored.offset, stored.bytes)
        if len(content) != stored.bytes:
            raise StorageError(
                f"{len(content)} bytes at {stored.offset}, expected {stored.bytes}",
                where=self._bucket.name(_key(stored.segment)),
                hint="the store lost data that it said it had kept: restore a backup",
            )
        return content


def _key(segment: str) -> str:
    return f"{_FOLDER}/{segment.split('-', 1)[0]}/{segment}"
