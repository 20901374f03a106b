"""Uploads on disk: appended to segment files, many to one fsync.

A segment holds updates of one attempt, one behind the other, each at a multiple of 64 bytes. It
has no index of its own: the store says which bytes of it are acknowledged updates, and what lies
behind the last of them was never acknowledged. So a torn tail needs no repair, only cutting off.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, Protocol

from ravan_edge.errors import StorageError
from ravan_edge.files import storage_errors, sync_folder
from ravan_server.store.rows import StoredUpdate

__all__ = ["FolderUpdateLog", "UpdateLog", "padding_bytes"]

_ALIGNMENT_BYTES = 64
_SEGMENT_BYTES = 1 << 30


def padding_bytes(length: int) -> int:
    """What follows an update of this length in its segment, before the next one can begin."""
    return -length % _ALIGNMENT_BYTES


class UpdateLog(Protocol):
    """Where the bytes of updates are kept until they are merged."""

    def recover(self, attempt: int, ends: Mapping[str, int]) -> None:
        """After a start: delete, or cut off, what the store does not know.

        Args:
            attempt: The only attempt whose updates are still wanted.
            ends: Segment -> where its last known update ends.

        Raises:
            StorageError: Something cannot be deleted.
        """
        ...

    def append(self, attempt: int, content: bytes | bytearray) -> tuple[str, int]:
        """Write an update; it is durable after :meth:`sync`. Its segment and offset."""
        ...

    def sync(self) -> None:
        """Make all that was appended durable.

        Raises:
            StorageError: It failed; what was appended since the last sync counts as lost.
        """
        ...

    def give_up(self) -> None:
        """What was appended since the last sync is not wanted, or cannot be trusted."""
        ...

    def contents(self, updates: Sequence[StoredUpdate]) -> Iterator[tuple[str, memoryview]]:
        """How errors call each update, and its bytes: good until the next one is asked for.

        Raises:
            StorageError: They cannot be read, or there are too few.
        """
        ...

    def drop(self, attempt: int) -> None:
        """Delete all segments of an attempt, from any thread."""
        ...

    def close(self) -> None:
        """Nothing is open after this."""
        ...


class FolderUpdateLog:
    """Segments as files ``<attempt>-<number>.updates`` of a folder.

    Raises:
        StorageError: The folder cannot be made.
    """

    def __init__(self, folder: Path, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        with storage_errors(folder, "make the folder"):
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)  # or a loss of power takes it, and all that is in it
        self._file: BinaryIO | None = None
        self._attempt = 0
        self._name = ""
        self._end = 0
        self._unsynced: dict[BinaryIO, int] = {}  # and where the last sync left each

    def recover(self, attempt: int, ends: Mapping[str, int]) -> None:
        """After a start: cut off what the store does not know."""
        with storage_errors(self._folder, "tidy the update log"):
            for path in self._folder.glob("*.updates"):
                end = ends.get(path.name, 0)
                if not path.name.startswith(f"{attempt}-") or not end:
                    path.unlink()
                elif path.stat().st_size > end:
                    os.truncate(path, end)

    def append(self, attempt: int, content: bytes | bytearray) -> tuple[str, int]:
        """Write an update; it is durable after :meth:`sync`. Its segment and offset."""
        with storage_errors(self._folder, "append to the update log"):
            file = self._file
            if file is None or attempt != self._attempt or self._end >= self._segment_bytes:
                file = self._open(attempt)
            offset = self._end
            self._unsynced.setdefault(file, offset)
            _write_at(file.fileno(), content, offset)
            self._end = offset + len(content) + padding_bytes(len(content))
        return self._name, offset

    def sync(self) -> None:
        """Make all that was appended durable."""
        with storage_errors(self._folder, "sync the update log"):
            for file in self._unsynced:
                os.fsync(file.fileno())
        for file in self._unsynced:
            if file is not self._file:
                file.close()
        self._unsynced.clear()

    def give_up(self) -> None:
        """What was appended since the last sync is not wanted, or cannot be trusted.

        After a failed fsync the kernel may have dropped the pages and say nothing about it the
        next time, so the segment is never written again. What was not synced leaves the disk,
        which may be full because of it.
        """
        for file, end in self._unsynced.items():
            with suppress(OSError):
                if not end:
                    Path(file.name).unlink()
                elif os.fstat(file.fileno()).st_size > end:
                    os.ftruncate(file.fileno(), end)
            file.close()
        if self._file is not None:
            self._file.close()
        self._unsynced.clear()
        self._file = None

    def contents(self, updates: Sequence[StoredUpdate]) -> Iterator[tuple[str, memoryview]]:
        """How errors call each update, and its bytes: good until the next one is asked for."""
        buffer = memoryview(bytearray(max((stored.bytes for stored in updates), default=0)))
        for name, stored_there in groupby(updates, key=lambda stored: stored.segment):
            path = self._folder / name
            with storage_errors(path, "open the update log"):
                file = path.open("rb", buffering=0)
            with file:
                for stored in stored_there:
                    wanted = buffer[: stored.bytes]
                    with storage_errors(path, "read the update log"):
                        file.seek(stored.offset)
                        found = _read_into(file, wanted)
                    if found != stored.bytes:
                        raise StorageError(
                            f"{found} bytes at {stored.offset}, expected {stored.bytes}",
                            where=str(path),
                            hint="the disk lost data that it said it had kept: restore a backup",
                        )
                    yield f"{path}, byte {stored.offset}", wanted.toreadonly()

    def drop(self, attempt: int) -> None:
        """Delete all segments of an attempt; from any thread, the writer's file may be one of them."""
        with storage_errors(self._folder, "delete merged updates"):
            for path in self._folder.glob(f"{attempt}-*.updates"):
                path.unlink()

    def close(self) -> None:
        """No file is open after this."""
        self.give_up()

    def _open(self, attempt: int) -> BinaryIO:
        number = 1 + max(
            (
                int(path.stem.split("-")[1])
                for path in self._folder.glob(f"{attempt}-*.updates")
                if path.stem.split("-")[1].isdigit()
            ),
            default=0,
        )
        name = f"{attempt}-{number}.updates"
        # Unbuffered: an append that fails leaves nothing behind that a later one would write.
        file = (self._folder / name).open("xb", buffering=0)
        sync_folder(self._folder)
        if self._file is not None and self._file not in self._unsynced:
            self._file.close()
        self._file, self._name, self._end, self._attempt = file, name, 0, attempt
        return file


def _write_at(descriptor: int, content: bytes | bytearray, offset: int) -> None:
    view = memoryview(content)
    while view:  # a call may write less than it is given
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _read_into(file: BinaryIO, buffer: memoryview) -> int:
    """Fill a buffer from a file; how many bytes there were."""
    found = 0
    while found < len(buffer):
        count: int = file.readinto(buffer[found:])  # type: ignore[attr-defined]
        if not count:
            break
        found += count
    return found
