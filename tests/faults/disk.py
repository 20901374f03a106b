"""A folder as the page cache shows it, and what of it a disk must have kept: see crash_states."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from tests.faults.recorder import (
    Create,
    Existing,
    Failed,
    Link,
    MakeFolder,
    Operation,
    RemoveFolder,
    Rename,
    Sync,
    SyncBegin,
    Truncate,
    Unlink,
    Write,
)

__all__ = ["Change", "Content", "Disk", "FileNode", "NameChange", "Tree"]

ROOT = 0
Part = Literal["whole", "first half", "last half"]
Key = tuple[int, str]  # a folder and a name in it


@dataclass(frozen=True)
class Change:
    """Bytes that are written, or a new size, of one file."""

    index: int  # of the operation
    offset: int
    data: bytes
    size: int | None = None  # of a truncation
    part: Part = "whole"

    def torn(self, part: Part) -> Change:
        middle = len(self.data) // 2
        if part == "first half":
            return replace(self, data=self.data[:middle], part=part)
        return replace(self, offset=self.offset + middle, data=self.data[middle:], part=part)


@dataclass(frozen=True)
class Content:
    """A file's bytes: those of ``base``, then ``changes`` in order."""

    base: bytes
    changes: tuple[Change, ...]

    def build(self) -> bytes:
        if not self.changes:
            return self.base
        content = bytearray(self.base)
        for change in self.changes:
            end = change.offset + len(change.data) if change.size is None else change.size
            if end > len(content):  # beyond the end: zeros between
                content += bytes(end - len(content))
            if change.size is None:
                content[change.offset : end] = change.data
            else:
                del content[end:]
        return bytes(content)


@dataclass
class FileNode:
    """One file, whatever its names."""

    number: int
    base: bytes
    changes: list[Change] = field(default_factory=list)
    durable: set[int] = field(default_factory=set)  # indexes of changes
    given_up: set[int] = field(default_factory=set)  # an fsync failed; none later writes them

    @property
    def pending(self) -> list[Change]:
        return [change for change in self.changes if change.index not in self.durable]

    def sync(self, before: int) -> None:
        """All changes before that operation become durable."""
        for change in self.changes:
            if change.index < before and change.index not in self.given_up:
                self.durable.add(change.index)
        done = 0
        while done < len(self.changes) and self.changes[done].index in self.durable:
            done += 1
        if done:
            self.base = Content(self.base, tuple(self.changes[:done])).build()
            self.durable -= {change.index for change in self.changes[:done]}
            del self.changes[:done]

    def give_up(self) -> None:
        self.given_up |= {change.index for change in self.pending}

    def content(self, kept: Mapping[int, Change]) -> Content:
        """What is durable, and of the rest the ``kept``, by index."""
        chosen = [
            kept.get(change.index, change)
            for change in self.changes
            if change.index in self.durable or change.index in kept
        ]
        return Content(self.base, tuple(chosen))


@dataclass(frozen=True)
class NameChange:
    """Entries of folders that change together, or not at all."""

    index: int
    edits: tuple[tuple[Key, int | None], ...]
    folder: int  # whose fsync makes it durable

    @property
    def keys(self) -> frozenset[Key]:
        return frozenset(key for key, _ in self.edits)


@dataclass(frozen=True)
class Tree:
    """Paths of folders, and of files with their nodes' numbers."""

    folders: tuple[str, ...]
    files: tuple[tuple[str, int], ...]


class Disk:
    """Applies operations, and tells what of them is certain."""

    def __init__(self, before: Iterable[Existing]) -> None:
        self.files: dict[int, FileNode] = {}
        self.durable: dict[Key, int] = {}
        self.pending: list[NameChange] = []
        self._by_inode: dict[int, FileNode] = {}
        self._now: dict[Key, int] = {}
        self._folders = {ROOT}
        self._begun: dict[int, int] = {}  # index of an fsync's begin -> node
        for one in before:
            if one.content is None:
                node = self._new_number()
                self._folders.add(node)
            elif one.file in self._by_inode:
                node = self._by_inode[one.file].number
            else:
                node = self._new_file(one.file, one.content)
            self._now[self._key(one.path)] = node
        self.durable.update(self._now)

    def apply(self, index: int, operation: Operation) -> None:
        match operation:
            case Create(inode, path):
                self._name(index, (self._key(path), self._new_file(inode, b"")))
            case Write(inode, path, offset, data):
                self.file(inode, path).changes.append(Change(index, offset, data))
            case Truncate(inode, path, size):
                self.file(inode, path).changes.append(Change(index, 0, b"", size))
            case SyncBegin(inode, path):
                self._begun[index] = self._synced(inode, path)
            case Sync(_, _, began):
                self._sync(self._begun.pop(began), began)
            case Failed("B", inode, path):
                node = self._synced(inode, path)
                if node in self.files:
                    self.files[node].give_up()
            case _:
                self._apply_names(index, operation)

    def tree(self, kept: Collection[NameChange]) -> Tree:
        """The names after the durable changes and the ``kept``, which are in order."""
        names = dict(self.durable)
        for change in kept:
            for key, node in change.edits:
                if node is None:
                    names.pop(key, None)
                else:
                    names[key] = node
        inner: dict[int, list[tuple[str, int]]] = {}
        for (folder, name), node in names.items():
            inner.setdefault(folder, []).append((name, node))
        folders: list[str] = []
        files: list[tuple[str, int]] = []
        waiting = [(ROOT, "")]  # what is in a folder without a name is out of reach
        while waiting:
            folder, prefix = waiting.pop()
            for name, node in inner.get(folder, []):
                if node in self._folders:
                    folders.append(prefix + name)
                    waiting.append((node, f"{prefix}{name}/"))
                else:
                    files.append((prefix + name, node))
        return Tree(tuple(sorted(folders)), tuple(sorted(files)))

    def file(self, inode: int, path: str) -> FileNode:
        if inode not in self._by_inode:
            raise ValueError(f"{path} is changed, but who made it was not recorded")
        return self._by_inode[inode]

    def name_of(self, node: FileNode) -> str:
        """A name of the file, or which one it is if it has none now."""
        for (_, name), number in self._now.items():
            if number == node.number:
                return name
        return f"file {node.number}"

    # ---- inner

    def _apply_names(self, index: int, operation: Operation) -> None:
        match operation:
            case Rename(path, target):
                key, other = self._key(path), self._key(target)
                node = self._now[key]
                if self._now.get(other) != node:  # two links to one file: rename does nothing
                    self._name(index, (other, node), (key, None))
            case Link(path, target):
                self._name(index, (self._key(target), self._now[self._key(path)]))
            case Unlink(path) | RemoveFolder(path):
                self._name(index, (self._key(path), None))
            case MakeFolder(path):
                self._folders.add(node := self._new_number())
                self._name(index, (self._key(path), node))
            case _:
                pass  # marks, and what was not done

    def _new_number(self) -> int:
        return len(self._folders) + len(self.files)

    def _new_file(self, inode: int, content: bytes) -> int:
        node = FileNode(self._new_number(), content)
        self.files[node.number] = self._by_inode[inode] = node
        return node.number

    def _key(self, path: str) -> Key:
        *folders, name = path.split("/")
        folder = ROOT
        for part in folders:
            folder = self._now[folder, part]
        return folder, name

    def _synced(self, inode: int, path: str) -> int:
        node = self._now.get(self._key(path)) if path else ROOT
        # A file may have lost its name since it was opened, or given it to another.
        return node if node is not None and node in self._folders else self.file(inode, path).number

    def _name(self, index: int, *edits: tuple[Key, int | None]) -> None:
        self.pending.append(NameChange(index, edits, folder=edits[0][0][0]))
        for key, node in edits:
            if node is None:
                del self._now[key]
            else:
                self._now[key] = node

    def _sync(self, node: int, before: int) -> None:
        if node in self.files:
            self.files[node].sync(before)
            return
        touched: set[Key] = set()
        certain: list[NameChange] = []
        for change in reversed(self.pending):
            own = change.folder == node and change.index < before
            if own or change.keys & touched:  # an entry's changes have an order
                touched |= change.keys
                certain.append(change)
        for change in reversed(certain):
            self.pending.remove(change)
            for key, value in change.edits:
                if value is None:
                    self.durable.pop(key, None)
                else:
                    self.durable[key] = value
