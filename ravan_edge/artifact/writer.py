"""Writing an artifact: under a temporary name beside its destination, renamed when it is whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ravan_edge.artifact.manifest import FileEntry, Manifest, check_path, parse_manifest
from ravan_edge.artifact.opening import MANIFEST_NAME
from ravan_edge.artifact.tensor_file import write_tensors
from ravan_edge.errors import ArtifactError
from ravan_edge.files import sha256_file, storage_errors, write_atomic
from ravan_edge.new_folder import NewFolder

__all__ = ["ArtifactWriter"]

_COPY_BYTES = 1 << 20


class ArtifactWriter(NewFolder):
    """Builds an artifact that is seen whole or not at all.

    ::

        with ArtifactWriter(Path("mails.ravan")) as writer:
            writer.add_tensors("base.safetensors", base)
            writer.add_tensors("heads.safetensors", heads, heads_metadata(0, None))
            writer.add_bytes("plans/whole/step.onnx", graph)
            writer.write_manifest(lambda files: Manifest(files=dict(files), ...))
            writer.publish()

    Left without :meth:`publish` (an error, Ctrl-C), nothing stays behind. Between
    :meth:`write_manifest` and :meth:`publish`, ``writer.folder`` is a complete artifact that
    ``open_artifact`` opens: to run it and write the figures with a second :meth:`write_manifest`.

    Args:
        destination: The artifact's folder; its parent must exist.
        overwrite: Replace an artifact that is there.

    Raises:
        UsageError: Something is at the destination that may not be replaced.
        StorageError: The disk is full, or the like.
    """

    def __init__(self, destination: Path, *, overwrite: bool = False) -> None:
        super().__init__(destination, overwrite=overwrite)
        self._known: dict[str, tuple[tuple[int, int], FileEntry]] = {}

    def path(self, relative: str) -> Path:
        """Where to write the file ``relative`` (its folder exists then), for other libraries.

        Raises:
            ArtifactError: The path is not one that an artifact may hold.
        """
        try:
            check_path(relative)
        except ValueError as error:
            raise ArtifactError(str(error), where=str(self.destination)) from None
        path = self.folder / relative
        with storage_errors(path, "make the folder"):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add_bytes(self, relative: str, content: bytes) -> None:
        """Add a file with this content."""
        write_atomic(self.path(relative), [content], durable=False)

    def add_file(self, relative: str, source: Path) -> None:
        """Add a copy of a file, streamed."""
        with storage_errors(source, "read the file"), source.open("rb") as file:
            pieces = iter(lambda: file.read(_COPY_BYTES), b"")
            write_atomic(self.path(relative), pieces, durable=False)

    def add_tensors(
        self,
        relative: str,
        tensors: Mapping[str, NDArray[Any]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Add a tensor file, streamed: arrays are never copied as a whole."""
        write_tensors(self.path(relative), tensors, metadata, durable=False)

    def write_manifest(self, make: Callable[[Mapping[str, FileEntry]], Manifest]) -> Manifest:
        """Write the manifest; may be repeated.

        Args:
            make: Is given every file's digest and size, returns the manifest with them.

        Raises:
            ArtifactError: What ``make`` returned would be refused by a reader.
        """
        files = {}
        with storage_errors(self.folder, "write the files"):
            for path in sorted(self.folder.rglob("*")):
                relative = path.relative_to(self.folder).as_posix()
                if path.is_file() and relative != MANIFEST_NAME:
                    files[relative] = self._entry(path, relative)
        content = make(files).to_bytes()
        manifest = parse_manifest(content, where=str(self.destination / MANIFEST_NAME))
        if manifest.files != files:
            raise ArtifactError("its files are not those written", where=str(self.destination))
        write_atomic(self.folder / MANIFEST_NAME, [content])
        return manifest

    def publish(self) -> Path:
        """Give the artifact its name; where it now is.

        Raises:
            ArtifactError: There is no manifest yet.
            UsageError: Something appeared at the destination.
            StorageError: The rename failed; what was there before is still there.
        """
        if not (self.folder / MANIFEST_NAME).is_file():
            raise ArtifactError("the manifest was never written", where=str(self.destination))
        self.take_name()
        return self.destination

    def _entry(self, path: Path, relative: str) -> FileEntry:
        """Digest and size of a file, made durable. Unchanged files are not read twice."""
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        known = self._known.get(relative)
        if known is None or known[0] != stamp:
            with path.open("r+b") as file:
                os.fsync(file.fileno())
            entry = FileEntry(sha256=sha256_file(path), size=status.st_size)
            self._known[relative] = known = (stamp, entry)
        return known[1]
