"""Every state in which a crash can leave a folder, from one recorded run.

    for state in crash_states(recording.trace()):
        state.write_to(folder)
        ...  # start the program on it: all that state.marks promise must be there, once

**kill -9** before operation n: the operating system goes on, so all operations before n are there; and
with the first half of n, where n is a write.

**Loss of power** before operation n. The model is that of ALICE (Pillai et al., "All File Systems
Are Not Created Equal", OSDI 2014) with few properties of a file system taken for granted. Certain is:

* A file's writes and truncations that came before the *begin* of an fsync or fdatasync of it that has
  returned. fdatasync keeps the size too.
* A folder's new, renamed and removed names, likewise by an fsync of that folder, and of nothing else.
  ext4, XFS, btrfs and F2FS give more: an fsync of a new file keeps its name too (Mohan et al., "File
  System Crash-Recovery Guarantees", linux-fsdevel, 2019). POSIX promises no such thing, SQLite does not
  rely on it (it syncs the folder of a new journal or log), and nothing here does.
* A rename is atomic, also from one folder to another; the fsync of the folder it goes to keeps it. The
  changes of one name have an order.

All else may be lost or kept. Of the files' content:

* all of it lost, all of it kept;
* the same with one file the other way round;
* the same where one file keeps a first part of its writes, or all but one of them (the disk has
  reordered them), or all with the last one torn: only its first half, only its last;
* the same where a file that has grown has its new size, but zeros for its new bytes.

Of the names: all lost, all kept, the first k kept, all kept but one and those that need it.
These names with content lost or kept, and these contents with names lost or kept.

After an fsync that fails, what it should have written may be lost for good: the kernel may have dropped
the pages, and an fsync that succeeds later says nothing about them.

Where many writes wait for one fsync, eight are tried, spread over all. States that are alike come once.

**Not covered:** all mixtures of the above (two files each torn); a tear elsewhere than at half; a
new size without the writes before it, other than the zeros above; blocks that show old content of
the disk (writeback mode); disks that lie about fsync, or damage what is at rest; modes and times of
files; stores through mmap, which the recorder refuses; SQLite's -shm, which whoever opens it first
makes anew.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Literal

from tests.faults.disk import Change, Content, Disk, FileNode, NameChange, Tree
from tests.faults.recorder import Mark, Operation, Trace, Write

__all__ = ["CrashState", "crash_states", "kill_states", "power_loss_states"]

_MOST_TRIED = 8

Kept = Mapping[int, Change]  # of one file, by index
Choice = Mapping[int, Content]  # a content for each file


@dataclass(frozen=True)
class CrashState:
    """What is on the disk when the machine is up again.

    Attributes:
        kind: What has happened.
        at: Operations of the trace that had begun and ended before.
        label: All that, to be read.
        marks: What had been promised before.
        folders: Paths.
        files: Path and content; :meth:`contents` makes bytes of it.
    """

    kind: Literal["kill", "power loss"]
    at: int
    label: str
    marks: tuple[str, ...]
    folders: tuple[str, ...]
    files: tuple[tuple[str, Content], ...]

    def contents(self) -> dict[str, bytes]:
        return {path: content.build() for path, content in self.files}

    def write_to(self, folder: Path) -> None:
        """Make ``folder`` this state; what else was in it is gone."""
        wanted = self.contents()
        for inner, folders, names in os.walk(folder, topdown=False):
            prefix = (
                "" if inner == str(folder) else f"{Path(inner).relative_to(folder).as_posix()}/"
            )
            for name in (*folders, *names):
                path = Path(inner, name)
                if path.is_dir() and not path.is_symlink():
                    if prefix + name not in self.folders:
                        path.rmdir()
                elif prefix + name not in wanted or not _is_plain(path):
                    path.unlink()
        for path_inside in ("", *self.folders):
            (folder / path_inside).mkdir(parents=True, exist_ok=True)
        for path_inside, content in wanted.items():
            file = folder / path_inside
            # Reading is much faster than making files, and most are as in the state before.
            if not file.exists() or file.read_bytes() != content:
                file.write_bytes(content)


def _is_plain(path: Path) -> bool:
    """A file whose change changes no other."""
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def crash_states(trace: Trace) -> Iterator[CrashState]:
    """Kills, then losses of power."""
    return chain(kill_states(trace), power_loss_states(trace))


def kill_states(trace: Trace) -> Iterator[CrashState]:
    """The folder after SIGKILL before, and in the middle of, each operation."""
    seen = _Seen()
    for index, operation, disk, marks in _replay(trace):
        tree = disk.tree(disk.pending)
        label = f"killed before {_said(index, operation)}"
        yield from seen.new("kill", index, label, marks, tree, _everything(disk))
        if isinstance(operation, Write) and len(operation.data) > 1:
            inner = _with_half(disk, index, operation)
            label = f"killed in the middle of {_said(index, operation)}"
            yield from seen.new("kill", index, label, marks, tree, inner)


def power_loss_states(trace: Trace) -> Iterator[CrashState]:
    """What may be left of the folder when the power goes before each operation."""
    seen = _Seen()
    for index, operation, disk, marks in _replay(trace):
        where = f"power lost before {_said(index, operation)}"
        all_names = [(said, disk.tree(kept)) for said, kept in _names(disk.pending)]
        all_contents = list(_contents(disk))
        for number, (named, tree) in enumerate(all_names):
            # the first two of each are: all lost, all kept
            for filled, choice in all_contents if number < 2 else all_contents[:2]:
                label = f"{where}: names {named}; content {filled}"
                yield from seen.new("power loss", index, label, marks, tree, choice)


def _replay(trace: Trace) -> Iterator[tuple[int, Operation | None, Disk, tuple[str, ...]]]:
    """Each operation before it is applied, then None for the end."""
    disk = Disk(trace.before)
    marks: tuple[str, ...] = ()
    for index, operation in enumerate(trace.operations):
        yield index, operation, disk, marks
        if isinstance(operation, Mark):
            marks += (operation.text,)
        else:
            disk.apply(index, operation)
    yield len(trace.operations), None, disk, marks


class _Seen:
    """Lets a state through once, with each set of marks."""

    def __init__(self) -> None:
        self._seen: set[tuple[object, ...]] = set()
        self._digest = lru_cache(256)(lambda content: hashlib.sha256(content.build()).digest())

    def new(
        self,
        kind: Literal["kill", "power loss"],
        at: int,
        label: str,
        marks: tuple[str, ...],
        tree: Tree,
        choice: Choice,
    ) -> Iterator[CrashState]:
        files = tuple((path, choice[node]) for path, node in tree.files)
        digests = tuple((path, self._digest(content)) for path, content in files)
        key = (len(marks), tree.folders, digests)
        if key not in self._seen:
            self._seen.add(key)
            yield CrashState(kind, at, label, marks, tree.folders, files)


# ---- names


def _names(pending: Sequence[NameChange]) -> Iterator[tuple[str, list[NameChange]]]:
    yield "lost", []
    yield "kept", list(pending)
    count = len(pending)
    for first in _spread(1, count):
        yield f"kept up to {pending[first - 1].index}", list(pending[:first])
    for out in _spread(0, count):
        touched = set(pending[out].keys)
        kept = list(pending[:out])
        for change in pending[out + 1 :]:
            if change.keys & touched:
                touched |= change.keys
            else:
                kept.append(change)
        yield f"kept but {pending[out].index}", kept


# ---- content


def _everything(disk: Disk) -> dict[int, Content]:
    return {number: node.content(_all(node)) for number, node in disk.files.items()}


def _with_half(disk: Disk, index: int, write: Write) -> dict[int, Content]:
    found = _everything(disk)
    node = disk.file(write.file, write.path)
    before = found[node.number]
    half = Change(index, write.offset, write.data).torn("first half")
    found[node.number] = Content(before.base, (*before.changes, half))
    return found


def _contents(disk: Disk) -> Iterator[tuple[str, Choice]]:
    lost = {number: node.content({}) for number, node in disk.files.items()}
    kept = _everything(disk)
    yield "lost", lost
    yield "kept", kept
    waiting = [node for node in disk.files.values() if node.pending]
    for node in waiting:
        name = disk.name_of(node)
        number = node.number
        if len(waiting) > 1:
            yield f"lost but {name}", {**lost, number: kept[number]}
            yield f"kept but {name}", {**kept, number: lost[number]}
        for said, content in _special(node):
            yield f"kept, {name} {said}", {**kept, number: content}
            if len(waiting) > 1:
                yield f"lost, {name} {said}", {**lost, number: content}


def _all(node: FileNode) -> Kept:
    return {change.index: change for change in node.pending}


def _special(node: FileNode) -> Iterator[tuple[str, Content]]:
    """A file neither as it was at its last fsync nor as it is now."""
    pending, everything = node.pending, _all(node)
    last = pending[-1]
    if len(last.data) > 1:
        for part in ("first half", "last half"):
            content = node.content({**everything, last.index: last.torn(part)})
            yield f"with the {part} of {last.index}", content
    for first in _spread(1, len(pending)):
        some = {change.index: change for change in pending[:first]}
        yield f"up to {pending[first - 1].index}", node.content(some)
    for out in _spread(0, len(pending) - 1):
        some = {
            index: change for index, change in everything.items() if index != pending[out].index
        }
        yield f"without {pending[out].index}", node.content(some)
    size, lost = len(node.content(everything).build()), node.content({})
    if size > len(lost.build()):
        grown = Change(last.index, 0, b"", size)
        yield "with zeros", Content(lost.base, (*lost.changes, grown))


def _spread(start: int, end: int) -> list[int]:
    """The numbers from ``start`` to before ``end``, or some of them over the whole range."""
    count = end - start
    if count <= _MOST_TRIED:
        return list(range(start, end))
    return [start + number * (count - 1) // (_MOST_TRIED - 1) for number in range(_MOST_TRIED)]


def _said(index: int, operation: Operation | None) -> str:
    """An operation as a failing test shows it."""
    match operation:
        case None:
            return f"{index} (the end)"
        case Write(_, path, offset, data):
            return f"{index} (Write {path} {offset}+{len(data)})"
        case Mark(text):
            return f"{index} (Mark {text})"
        case _:
            return f"{index} ({type(operation).__name__} {getattr(operation, 'path', '')})"
