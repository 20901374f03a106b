"""A disk that fails at its n-th write, fsync or rename, tearing what was being written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

__all__ = ["FailingDisk", "Killed"]


class Killed(BaseException):
    """Ends the process as a kill would: nothing in the product catches it."""


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FailingDisk:
    """Counts operations below a folder; fails from the n-th on, as a full or dead disk does.

    Args:
        fail_at: Number of the operation, from 0.
        error: Makes what is raised.
    """

    def __init__(self, fail_at: int, error: Callable[[], BaseException]) -> None:
        self.operations: list[str] = []
        self._fail_at = fail_at
        self._error = error

    @property
    def failed(self) -> bool:
        return len(self.operations) > self._fail_at

    def step(self, what: str) -> None:
        self.operations.append(what)
        if self.failed:
            raise self._error()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Everything that writes goes through this disk."""
        fdopen, fsync, replace = os.fdopen, os.fsync, os.replace
        path_open, path_replace = Path.open, Path.replace

        def failing_open(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
            file: Any = path_open(path, mode, *rest, **named)
            return _Torn(file, self) if set(mode) & set("wa") and path.name != ".lock" else file

        def failing_fdopen(descriptor: int, *rest: Any, **named: Any) -> Any:
            return _Torn(fdopen(descriptor, *rest, **named), self)

        def failing_fsync(descriptor: int) -> None:
            self.step("fsync")
            fsync(descriptor)

        def failing_replace(source: Any, target: Any) -> Any:
            self.step("rename")
            return replace(source, target)

        def failing_path_replace(path: Path, target: Any) -> Any:
            self.step("rename")
            return path_replace(path, target)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fdopen", failing_fdopen)
            patch.setattr(os, "fsync", failing_fsync)
            patch.setattr(os, "replace", failing_replace)
            patch.setattr(Path, "open", failing_open)
            patch.setattr(Path, "replace", failing_path_replace)
            yield


class _Torn:
    """A file whose write may stop half-way."""

    def __init__(self, file: Any, disk: FailingDisk) -> None:
        self._file = file
        self._disk = disk

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        try:
            self._disk.step("write")
        except BaseException:
            self._file.write(view[: len(view) // 2])
            raise
        return int(self._file.write(view))

    def writelines(self, parts: Iterable[Any]) -> None:
        for part in parts:
            self.write(part)

    def truncate(self, size: int | None = None) -> int:
        self._disk.step("truncate")
        return int(self._file.truncate(size))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
