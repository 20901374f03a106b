"""A folder that is seen whole or not at all: built under a temporary name, renamed at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from ravan_edge.errors import UsageError
from ravan_edge.files import storage_errors, sync_folder

__all__ = ["NewFolder"]


class NewFolder:
    """Builds a folder beside its destination; left without :meth:`publish`, nothing stays behind.

    Args:
        destination: Its parent must exist.
        overwrite: Replace a folder that holds one of ``marks``.

    Attributes:
        destination: The folder's name in the end, absolute.
        folder: Where to write; the destination once it is published.

    Raises:
        UsageError: Something is at the destination that may not be replaced.
        StorageError: The disk is full, or the like.
    """

    marks: ClassVar[tuple[str, ...]] = ("manifest.json",)
    """Files by which a folder of ours is known."""

    def __init__(self, destination: Path, *, overwrite: bool = False) -> None:
        self.destination = Path(os.path.abspath(destination))  # noqa: PTH100  follows no link
        self.folder = self.destination
        self._overwrite = overwrite
        self._check_destination()

    def __enter__(self) -> Self:
        with storage_errors(self.destination, "make the folder"):
            name = tempfile.mkdtemp(
                dir=self.destination.parent, prefix=f".{self.destination.name}.", suffix=".tmp"
            )
        self.folder = Path(name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.folder != self.destination:
            shutil.rmtree(self.folder, ignore_errors=True)

    def take_name(self) -> None:
        """Give the folder its name. Its files are durable already; this makes its folders so.

        Raises:
            UsageError: Something appeared at the destination.
            StorageError: The rename failed; what was there before is still there.
        """
        self._check_destination()
        with storage_errors(self.destination, "write the folder"):
            for path in sorted(self.folder.rglob("*")):
                if path.is_dir():
                    sync_folder(path)
            umask = os.umask(0)
            os.umask(umask)
            self.folder.chmod(0o777 & ~umask)  # mkdtemp's 0700 would lock other users out
            self._rename()

    def _rename(self) -> None:
        old = self.folder.with_suffix(".old")
        replaces = self.destination.exists()
        if replaces:
            self.destination.rename(old)
        try:
            self.folder.rename(self.destination)
        except BaseException:
            if replaces:
                old.rename(self.destination)
            raise
        self.folder = self.destination
        sync_folder(self.destination.parent)
        if replaces:
            shutil.rmtree(old, ignore_errors=True)

    def _check_destination(self) -> None:
        with storage_errors(self.destination, "look at the destination"):
            if not self.destination.parent.is_dir():
                raise UsageError(
                    "the folder it should lie in does not exist",
                    where=str(self.destination),
                    hint=f"mkdir -p {self.destination.parent}",
                )
            if not os.path.lexists(self.destination):
                return
            is_folder = self.destination.is_dir() and not self.destination.is_symlink()
            if is_folder and not any(self.destination.iterdir()):
                return
            ours = is_folder and any((self.destination / mark).is_file() for mark in self.marks)
        if not ours:
            raise UsageError(
                "is there and was not made by ravan",
                where=str(self.destination),
                hint="choose another --out, or remove it first",
            )
        if not self._overwrite:
            raise UsageError(
                "is already there",
                where=str(self.destination),
                hint="choose another --out, or replace it with --overwrite",
            )
