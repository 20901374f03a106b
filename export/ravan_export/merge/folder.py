"""A folder that is seen whole or not at all: built under a temporary name, renamed at the end."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ravan_edge.errors import StorageError, UsageError
from ravan_edge.files import storage_errors, sync_folder, write_atomic

__all__ = ["RECORD", "NewFolder", "writing"]

RECORD = "ravan_merge.json"
"""What was merged; also the mark by which ``--overwrite`` knows a folder of ours."""

_MARKS = (RECORD, "manifest.json")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of libraries that write files become a StorageError that names ``path``."""
    try:
        with storage_errors(path, "write the merged model"):
            yield
    except Exception as error:
        # safetensors wraps the operating system's error in a class of its own.
        if type(error).__name__ == "SafetensorError":
            raise StorageError(
                f"cannot write the merged model: {error}",
                where=str(path),
                hint="free some space, or choose another folder; nothing was lost",
            ) from error
        raise


class NewFolder:
    """Builds a folder beside its destination; left without :meth:`publish`, nothing stays behind.

    Args:
        destination: Its parent must exist.
        overwrite: Replace a folder that ``ravan merge`` or ``ravan export`` made.

    Raises:
        UsageError: Something is at the destination that may not be replaced.
    """

    def __init__(self, destination: Path, *, overwrite: bool = False) -> None:
        self.destination = Path(os.path.abspath(destination))  # noqa: PTH100  follows no link
        self.path = self.destination
        self._overwrite = overwrite
        self._check()

    def __enter__(self) -> Self:
        with storage_errors(self.destination, "make the folder"):
            name = tempfile.mkdtemp(
                dir=self.destination.parent, prefix=f".{self.destination.name}.", suffix=".tmp"
            )
        self.path = Path(name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.path != self.destination:
            shutil.rmtree(self.path, ignore_errors=True)

    def add_json(self, relative: str, document: object) -> None:
        """Add a JSON file: sorted keys, two spaces of indent, a final newline."""
        text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        self.add_bytes(relative, text.encode() + b"\n")

    def add_bytes(self, relative: str, content: bytes) -> None:
        """Add a file with this content."""
        path = self.path / relative
        with writing(self.destination / relative):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, [content], durable=False)

    def publish(self, record: Mapping[str, Any] | None) -> dict[str, int]:
        """Write the record, make everything durable, and give the folder its name.

        Returns:
            Bytes of each file, by relative path.

        Raises:
            UsageError: Something appeared at the destination.
            StorageError: The disk is full, or the like; what was there before is still there.
        """
        if record is not None:
            self.add_json(RECORD, record)
        self._check()
        sizes: dict[str, int] = {}
        with storage_errors(self.destination, "write the folder"):
            for path in sorted(self.path.rglob("*")):
                if path.is_dir():
                    sync_folder(path)
                    continue
                with path.open("r+b") as file:
                    os.fsync(file.fileno())
                sizes[path.relative_to(self.path).as_posix()] = path.stat().st_size
            umask = os.umask(0)
            os.umask(umask)
            self.path.chmod(0o777 & ~umask)  # mkdtemp's 0700 would lock other users out
            self._rename()
        return sizes

    def _rename(self) -> None:
        old = self.path.with_suffix(".old")
        replaces = self.destination.exists()
        if replaces:
            self.destination.rename(old)
        try:
            self.path.rename(self.destination)
        except BaseException:
            if replaces:
                old.rename(self.destination)
            raise
        self.path = self.destination
        sync_folder(self.destination.parent)
        if replaces:
            shutil.rmtree(old, ignore_errors=True)

    def _check(self) -> None:
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
            ours = is_folder and any((self.destination / mark).is_file() for mark in _MARKS)
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
