"""Writing files so that a reader sees the old content or the new, never a part of it."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ravan_edge.errors import StorageError

__all__ = ["sha256_file", "storage_errors", "sync_folder", "write_atomic"]

_READ_BYTES = 1 << 20
_HINTS = {
    errno.ENOSPC: "free some space, or choose another folder; nothing was lost",
    errno.EDQUOT: "free some space, or choose another folder; nothing was lost",
    errno.EACCES: "choose a path that you may use, or change who may",
    errno.EPERM: "choose a path that you may use, or change who may",
    errno.EROFS: "choose a folder on a disk that can be written",
    errno.ENOENT: "check the path",
    errno.EEXIST: "a file has that name already: choose another path",
    errno.ENOTDIR: "a file is where a folder should be: check the path",
    errno.EISDIR: "a folder has that name: name a file",
}


@contextmanager
def storage_errors(path: str | os.PathLike[str], action: str) -> Iterator[None]:
    """Turn an OSError of the block into a :class:`StorageError` that names file and way out."""
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "look at the disk, then type the same command again")
        reason = error.strerror or str(error)
        raise StorageError(
            f"cannot {action}: {reason}", where=os.fspath(path), hint=hint
        ) from error


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable (a no-op where folders cannot be opened)."""
    if os.name == "nt":  # Windows has no handle for this; its renames are journaled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(
    path: Path,
    chunks: Iterable[bytes | bytearray | memoryview],
    *,
    durable: bool = True,
    private: bool = False,
) -> None:
    """Write ``path`` as temporary file, fsync, rename.

    Args:
        path: Its folder must exist.
        chunks: The content, piece by piece.
        durable: Whether the content must survive a loss of power (fsync). A rename without it
            still never shows a half-written file to a reader on a running machine.
        private: Whether only its owner may read it, from its first byte on.

    Raises:
        StorageError: The disk is full, or the like. The old content is still there.
    """
    with storage_errors(path, "write the file"):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            if not private:
                umask = os.umask(0)
                os.umask(umask)
                os.chmod(name, 0o666 & ~umask)  # mkstemp's 0600 would lock other users out
            os.replace(name, path)
        except BaseException:
            with storage_errors(path, "clean up"):
                Path(name).unlink(missing_ok=True)
            raise
        if durable:
            sync_folder(path.parent)


def sha256_file(path: Path) -> str:
    """The sha256 of a file as 64 lower-case hex digits.

    Raises:
        StorageError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with storage_errors(path, "read the file"), path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
