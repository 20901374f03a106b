"""One process at a time on a run folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from ravan_edge.errors import UsageError
from ravan_edge.files import storage_errors

__all__ = ["FolderLock"]


class FolderLock:
    """An operating system's lock on ``.lock`` in a folder; it ends with the process, however that ends.

    Raises:
        UsageError: Another process has it.
        StorageError: The file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / ".lock"
        with storage_errors(path, "lock the folder"):
            self._file = path.open("ab")
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UsageError(
                "another process is working on this run folder",
                where=os.fspath(folder),
                hint="wait until it is done, or name another folder with --out",
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
