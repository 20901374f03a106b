"""What a program does to the files of a folder, recorded below every library it uses.

A library in C (``recorder.c``) is loaded into the program with LD_PRELOAD, so writes of SQLite and
of any other compiled code are seen like Python's own. It can also make the n-th operation fail, or
kill the program there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Create",
    "Existing",
    "Failed",
    "Fault",
    "Link",
    "MakeFolder",
    "Mark",
    "Operation",
    "Recording",
    "RemoveFolder",
    "Rename",
    "Sync",
    "SyncBegin",
    "Trace",
    "Truncate",
    "Unlink",
    "Write",
    "build_library",
    "read_operations",
]

_MAGIC = b"RECORD01"
_HEADER = struct.Struct("<8sQQ")
_RECORD = struct.Struct("<IBBHHiQQq")
LIBRARY_NAME = "recorder.so"


def build_library(folder: Path) -> None:
    """Compile the recorder into ``folder``, which does not exist yet."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise RuntimeError(
            "no C compiler `cc`, which the recorder of file operations needs: "
            "on Debian and Ubuntu, `apt-get install gcc libc6-dev`"
        )
    folder.mkdir()
    source = Path(__file__).with_name("recorder.c")
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-U_FORTIFY_SOURCE"]
    built = subprocess.run(
        [
            compiler,
            *flags,
            "-shared",
            "-fPIC",
            "-o",
            folder / LIBRARY_NAME,
            source,
            "-ldl",
            "-lpthread",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        raise RuntimeError(
            f"`{compiler}` cannot compile {source} (are the headers of libc there? "
            f"on Debian and Ubuntu, `apt-get install libc6-dev`):\n{built.stderr}"
        )


# ---- what can happen; paths are relative to the folder, "" is the folder itself, `file` an inode


@dataclass(frozen=True)
class Create:
    """A file that was not there is opened."""

    file: int
    path: str


@dataclass(frozen=True)
class Truncate:
    """A file gets a size: cut, or filled up with zeros."""

    file: int
    path: str
    size: int


@dataclass(frozen=True)
class Write:
    file: int
    path: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class SyncBegin:
    """An fsync or fdatasync of a file or a folder is called; it may yet fail."""

    file: int
    path: str
    number: int


@dataclass(frozen=True)
class Sync:
    """It has returned: what was done before its begin, the operation ``began``, is durable."""

    file: int
    path: str
    began: int


@dataclass(frozen=True)
class Rename:
    path: str
    target: str


@dataclass(frozen=True)
class Link:
    path: str
    target: str


@dataclass(frozen=True)
class Unlink:
    path: str


@dataclass(frozen=True)
class MakeFolder:
    path: str


@dataclass(frozen=True)
class RemoveFolder:
    path: str


@dataclass(frozen=True)
class Mark:
    """The program, or who talks to it, has said: from here on this is promised."""

    text: str


@dataclass(frozen=True)
class Failed:
    """An operation that was made to fail."""

    kind: str  # the letter of `enum kind` in recorder.c; "B" is an fsync
    file: int
    path: str
    error: int


Operation = (
    Create
    | Truncate
    | Write
    | SyncBegin
    | Sync
    | Rename
    | Link
    | Unlink
    | MakeFolder
    | RemoveFolder
    | Mark
    | Failed
)


@dataclass(frozen=True)
class Existing:
    """A file or folder (``content`` None) that was there before the program started."""

    file: int
    path: str
    content: bytes | None


@dataclass(frozen=True)
class Trace:
    before: tuple[Existing, ...]
    operations: tuple[Operation, ...]

    @property
    def numbered(self) -> tuple[Operation, ...]:
        """What :attr:`Fault.at` counts: everything but marks and the ends of fsyncs."""
        return tuple(one for one in self.operations if not isinstance(one, Mark | Sync))

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(one.text for one in self.operations if isinstance(one, Mark))


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and when.

    Attributes:
        at: Number of the operation, from 0, over all threads and processes.
        error: Its errno; None kills the process there, with SIGKILL. A full disk (ENOSPC) still
            lets files be cut and removed.
        half: A write puts half of its bytes first. With an error it then returns how many, and
            the operation after it fails, as on a disk that fills up.
        lasting: All later operations fail too.
    """

    at: int
    error: int | None = None
    half: bool = False
    lasting: bool = False


class Recording:
    """One program, or several at once, on one folder.

    Args:
        library: What :func:`build_library` has built.
        folder: Exists; what is in it now counts as durable.
        scratch: Exists, outside ``folder``; trace and marks lie there.
    """

    def __init__(self, library: Path, folder: Path, scratch: Path) -> None:
        self.folder = folder.resolve(strict=True)
        self.marks = scratch.resolve(strict=True) / "marks"
        self._library = library
        self._trace = self.marks.with_name("trace")
        if self.folder in self._trace.parents:
            raise ValueError(f"{scratch} is inside {folder}")
        self._before = tuple(_existing(self.folder))
        self.marks.write_bytes(b"")
        self._trace.write_bytes(_HEADER.pack(_MAGIC, 0, 0))

    def env(self, fault: Fault | None = None) -> dict[str, str]:
        """The environment of a program to be recorded.

        Each write to the file that its ``RECORDER_MARKS`` names, or to a descriptor of it, is a
        mark.
        """
        found = {
            name: text for name, text in os.environ.items() if not name.startswith("RECORDER_")
        }
        found["LD_PRELOAD"] = str(self._library / LIBRARY_NAME)
        found["RECORDER_FOLDER"] = str(self.folder)
        found["RECORDER_TRACE"] = str(self._trace)
        found["RECORDER_MARKS"] = str(self.marks)
        if fault is not None:
            found["RECORDER_AT"] = str(fault.at)
            found["RECORDER_ERRNO"] = str(fault.error or 0)
            found["RECORDER_HALF"] = str(int(fault.half))
            found["RECORDER_LASTING"] = str(int(fault.lasting))
        return found

    def mark(self, text: str) -> None:
        """Set a mark from here, when a program has promised something to this process."""
        content = text.encode("utf-8")
        record = _RECORD.pack(len(content), ord("M"), 0, 0, 0, 0, 0, 0, 0)
        with self._trace.open("ab", buffering=0) as file:
            fcntl.lockf(file, fcntl.LOCK_EX)  # the lock that the library takes
            file.write(record + content)

    def trace(self) -> Trace:
        """What has happened up to now.

        Raises:
            ValueError: Something happened that the recorder cannot follow, so nothing can be
                said from this trace.
        """
        return Trace(self._before, tuple(read_operations(self._trace)))


def _existing(folder: Path) -> Iterator[Existing]:
    for path in sorted(folder.rglob("*")):
        if path.name.endswith("-shm"):
            continue  # as recorder.c does
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise ValueError(f"{path} is a symbolic link, which the recorder does not follow")
        content = None if stat.S_ISDIR(status.st_mode) else path.read_bytes()
        yield Existing(status.st_ino, path.relative_to(folder).as_posix(), content)


_OF_NAMES: dict[str, Callable[..., Operation]] = {
    "R": Rename,
    "L": Link,
    "U": Unlink,
    "D": MakeFolder,
    "d": RemoveFolder,
}


def read_operations(path: Path) -> Iterator[Operation]:
    """The operations of a trace file, in the order in which they happened."""
    content = path.read_bytes()
    if content[: len(_MAGIC)] != _MAGIC:
        raise ValueError(f"{path} is not a trace")
    begins: dict[int, int] = {}  # number of an fsync -> index of its begin
    at, index = _HEADER.size, 0
    while at + _RECORD.size <= len(content):
        fields = _RECORD.unpack_from(content, at)
        rest = content[at + _RECORD.size : at + _RECORD.size + fields[0]]
        if len(rest) < fields[0]:
            return  # killed while it was written: nobody was told yet
        operation = _operation(fields, rest, begins)
        if isinstance(operation, SyncBegin):
            begins[operation.number] = index
        yield operation
        at += _RECORD.size + len(rest)
        index += 1


def _operation(fields: tuple[int, ...], rest: bytes, begins: dict[int, int]) -> Operation:
    _, code, failed, path_length, other_length, error, file, number, offset = fields
    kind = chr(code)
    path = os.fsdecode(rest[:path_length])
    other = os.fsdecode(rest[path_length : path_length + other_length])
    data = rest[path_length + other_length :]
    if kind in _OF_NAMES:
        return _OF_NAMES[kind](path, other) if other else _OF_NAMES[kind](path)
    match kind:
        case "C":
            return Create(file, path)
        case "T":
            return Truncate(file, path, offset)
        case "W":
            return Write(file, path, offset, data)
        case "B":
            return SyncBegin(file, path, number)
        case "S":
            return Sync(file, path, begins[number])
        case "M":
            return Mark(data.decode("utf-8").removesuffix("\n"))
        case "F":
            return Failed(chr(failed), file, path, error)
        case _:
            raise ValueError(
                f"{path}: {other} cannot be recorded, so nothing is known of this file"
            )
