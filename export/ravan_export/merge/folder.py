"""The folder that a merge makes, seen whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ravan_edge.errors import StorageError
from ravan_edge.files import storage_errors, write_atomic
from ravan_edge.new_folder import NewFolder

__all__ = ["RECORD", "MergedFolder", "writing"]

RECORD = "ravan_merge.json"
"""What was merged; also the mark by which ``--overwrite`` knows a folder of ours."""


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


class MergedFolder(NewFolder):
    """What ``ravan merge`` makes; replaces only folders that ``ravan merge`` or ``export`` made."""

    marks = (RECORD, *NewFolder.marks)

    @property
    def path(self) -> Path:
        """Where to write."""
        return self.folder

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
        sizes: dict[str, int] = {}
        with storage_errors(self.destination, "write the folder"):
            for path in sorted(self.path.rglob("*")):
                if path.is_file():
                    with path.open("r+b") as file:
                        os.fsync(file.fileno())
                    sizes[path.relative_to(self.path).as_posix()] = path.stat().st_size
        self.take_name()
        return sizes
