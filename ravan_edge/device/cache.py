"""Artifacts on a device: each file downloaded once, ever, and checked.

A blob is a file called by its sha256 in ``blobs/``. An artifact is a folder of hard links to them, so
two artifacts with one base hold it once; it has only the files of the plan that the device runs.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from ravan_edge.artifact import (
    MANIFEST_NAME,
    Artifact,
    Manifest,
    files_of_plan,
    open_artifact,
    parse_manifest,
)
from ravan_edge.artifact.manifest import MANIFEST_MAX_BYTES
from ravan_edge.errors import ArtifactError, StorageError
from ravan_edge.files import storage_errors, sync_folder
from ravan_edge.plans import check_plan

__all__ = ["ArtifactCache", "Fetch"]

Fetch = Callable[[str, Path, int], None]
"""Downloads a blob: its digest, the file to put it in, the most bytes it may have."""

_SPARE_BYTES = 64 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_TOLD = 64


class ArtifactCache:
    """What a device has downloaded.

    Args:
        folder: The device's folder.

    Raises:
        StorageError: It cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._blobs = folder / "blobs"
        self._artifacts = folder / "artifacts"
        with storage_errors(folder, "make the folder"):
            self._blobs.mkdir(exist_ok=True)
            self._artifacts.mkdir(exist_ok=True)
            sync_folder(folder)

    def digests(self) -> tuple[str, ...]:
        """Artifacts that are here, as many of them as a check-in has room for."""
        names = (path.name for path in self._artifacts.iterdir() if path.is_dir())
        return tuple(sorted(filter(_DIGEST.fullmatch, names))[:_MOST_TOLD])

    def open(self, digest: str, plan: str, fetch: Fetch) -> Artifact:
        """An artifact, whatever of it has to be downloaded first.

        Raises:
            ArtifactError: It is refused, or it has no such plan.
            StorageError: Disk or network failed; what was downloaded so far stays.
        """
        folder = self._artifacts / digest
        with storage_errors(folder, "make the folder"):
            folder.mkdir(exist_ok=True)
        self.place(digest, folder / MANIFEST_NAME, MANIFEST_MAX_BYTES, fetch)
        with storage_errors(folder, "read the manifest"):
            manifest = parse_manifest(
                (folder / MANIFEST_NAME).read_bytes(), where=f"artifact {digest}"
            )
        check_plan(plan, manifest, f"artifact {digest}")
        self._check_space(manifest, plan)
        for name, entry in files_of_plan(manifest, plan).items():
            path = folder / name
            with storage_errors(path, "make the folder"):
                path.parent.mkdir(parents=True, exist_ok=True)
            self.place(entry.sha256, path, entry.size, fetch)
        try:
            artifact = open_artifact(folder, plan=plan)
        except ArtifactError:
            # What was checked when it came is damaged now: get it again the next time.
            self._forget(folder)
            raise
        self._forget_others(folder)
        return artifact

    def place(self, digest: str, path: Path, most_bytes: int, fetch: Fetch) -> None:
        """A blob under a name outside the cache, downloaded where it is not here.

        Raises:
            StorageError: Disk or network failed.
        """
        if path.exists():
            return
        blob = self._blobs / digest
        if not blob.exists():
            fetch(digest, blob, most_bytes)
        with storage_errors(path, "link the file"):
            try:
                os.link(blob, path)
            except OSError:  # a file system without links
                temporary = path.with_name(f".{path.name}.tmp")
                shutil.copyfile(blob, temporary)
                temporary.replace(path)

    def _check_space(self, manifest: Manifest, plan: str) -> None:
        missing = sum(
            entry.size
            for entry in files_of_plan(manifest, plan).values()
            if not (self._blobs / entry.sha256).exists()
        )
        free = shutil.disk_usage(self._blobs).free
        if missing + _SPARE_BYTES > free:
            raise StorageError(
                f"the artifact needs {missing:,} bytes more, and {_SPARE_BYTES:,} beside it for rounds; "
                f"{free:,} are free",
                where=str(self._blobs),
                hint="free some space, or use a --state folder on another disk",
            )

    def _forget(self, folder: Path) -> None:
        with storage_errors(folder, "delete a damaged artifact"):
            shutil.rmtree(folder)
            for blob in self._blobs.iterdir():
                if blob.stat().st_nlink == 1 and not blob.name.endswith(".part"):
                    blob.unlink()

    def _forget_others(self, folder: Path) -> None:
        """Artifacts that the server does not ask for any more, and blobs of them alone."""
        with storage_errors(self._artifacts, "delete old artifacts"):
            # Where links cannot be made nobody can tell whose a blob is: then all are kept.
            linked = (folder / MANIFEST_NAME).stat().st_nlink > 1
            for other in self._artifacts.iterdir():
                if other != folder:
                    shutil.rmtree(other)
            for blob in self._blobs.iterdir():
                if blob.stat().st_nlink == 1 and linked:
                    blob.unlink()
