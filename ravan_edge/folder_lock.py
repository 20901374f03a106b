"""Whose a folder is: one process at a time, and one kind of process."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ravan_edge.closing import Closing
from ravan_edge.errors import UsageError
from ravan_edge.files import storage_errors

__all__ = ["FolderLock", "refuse_folder_of"]


class FolderLock(Closing):
    """An operating system's lock on ``.lock`` in a folder; it ends with the process, however that ends.

    Args:
        folder: It must exist.
        what: What kind of folder it is, for the error.
        option: The option that names it.

    Raises:
        UsageError: Another process has it.
        StorageError: The file cannot be made.
    """

    def __init__(self, folder: Path, *, what: str = "run", option: str = "--out") -> None:
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
                f"another process is working on this {what} folder",
                where=os.fspath(folder),
                hint=f"wait until it is done, or name another folder with {option}",
            ) from None

    def close(self) -> None:
        """Let the next process have it."""
        self._file.close()


def refuse_folder_of(whose: str, folder: Path, names: Sequence[str], *, option: str) -> None:
    """Refuse a folder that belongs to another kind of process, which would delete what it does not know.

    Args:
        whose: Of which kind.
        folder: It need not exist.
        names: Files that only folders of that kind have.
        option: The option that names the folder.

    Raises:
        UsageError: One of them is there.
    """
    found = next((name for name in names if (folder / name).exists()), None)
    if found is not None:
        raise UsageError(
            f"this is the folder of a {whose}: {found} is in it",
            where=os.fspath(folder),
            hint=f"name another folder with {option}",
        )
