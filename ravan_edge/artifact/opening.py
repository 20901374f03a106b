"""Opening an artifact: everything is checked before anything is mapped or run.

Sections 1 and 2 of docs/artifact.md. What comes from elsewhere is opened through
:func:`open_artifact` only.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ravan_edge.artifact.consistency import MANIFEST_NAME, SIGNATURE_NAME
from ravan_edge.artifact.graph_check import check_graphs
from ravan_edge.artifact.heads import load_heads
from ravan_edge.artifact.manifest import (
    MANIFEST_MAX_BYTES,
    FileEntry,
    Manifest,
    parse_manifest,
)
from ravan_edge.artifact.signature import PLAN_FORMS
from ravan_edge.artifact.tensor_file import (
    BASE_BOUNDS,
    TensorHeader,
    map_tensors,
    read_header,
)
from ravan_edge.errors import ArtifactError, ArtifactNotFoundError, TensorFileError
from ravan_edge.files import sha256_file, storage_errors

__all__ = [
    "BASE_NAME",
    "HEADS_NAME",
    "MANIFEST_NAME",
    "SIGNATURE_NAME",
    "Artifact",
    "files_of_plan",
    "open_artifact",
]

BASE_NAME = "base.safetensors"
HEADS_NAME = "heads.safetensors"
_MAX_PARTS = 8


@dataclass(frozen=True)
class Artifact:
    """A checked artifact. Made by :func:`open_artifact`.

    Attributes:
        folder: Where it lies.
        manifest: What everything is.
        digest: The artifact digest: sha256 of the bytes of ``manifest.json``.
        base_header: Names, dtypes, shapes and byte ranges of the base.
        base: The base's tensors by name: read-only views of the memory-mapped file.
    """

    folder: Path
    manifest: Manifest
    digest: str
    base_header: TensorHeader = field(repr=False)
    base: Mapping[str, NDArray[Any]] = field(repr=False)

    @property
    def base_folder(self) -> Path:
        """The folder that holds ``base.safetensors``: what a runtime is told."""
        return self.folder

    @property
    def base_digest(self) -> str:
        """The sha256 of the base: its address in a device's cache."""
        return self.manifest.files[BASE_NAME].sha256

    @property
    def heads_digest(self) -> str:
        """The sha256 of the initial heads file."""
        return self.manifest.files[HEADS_NAME].sha256

    @property
    def tokenizer_path(self) -> Path | None:
        """The tokenizer's file, where the task reads text."""
        text = self.manifest.text
        return None if text is None else self.folder / text.tokenizer

    @property
    def conformance_path(self) -> Path | None:
        """The stored batches and their results, where there are any."""
        stored = self.manifest.conformance
        return None if stored is None else self.folder / stored.file

    def graph_path(self, plan: str, role: str) -> Path:
        """The file of one graph of a plan.

        Raises:
            ArtifactError: The artifact has no such plan, or the plan no such graph.
        """
        found = self.manifest.plans.get(plan)
        if found is None or role not in found.graphs:
            plans = ", ".join(
                f"{name} ({', '.join(sorted(known.graphs))})"
                for name, known in sorted(self.manifest.plans.items())
            )
            raise ArtifactError(
                f"no graph {role!r} of a plan {plan!r}; found {plans}",
                where=str(self.folder),
                hint=f"export it with --plans {plan}",
            )
        return self.folder / found.graphs[role]

    def initial_heads(self) -> dict[str, NDArray[Any]]:
        """The heads a first round starts from: name -> float32 array, in the table's order.

        Raises:
            TensorFileError: The file changed since the artifact was opened.
        """
        return load_heads(self.folder / HEADS_NAME, self.manifest, self.digest)


def files_of_plan(manifest: Manifest, plan: str) -> dict[str, FileEntry]:
    """What a device needs to run one plan: all but the files of other plans and the conformance.

    Returns:
        Path -> digest and size, in the manifest's order.
    """
    others = {
        path
        for name, other in manifest.plans.items()
        if name != plan
        for path in (*other.blobs, *other.graphs.values())
    }
    own = {*manifest.plans[plan].blobs, *manifest.plans[plan].graphs.values()}
    unneeded = others - own - {BASE_NAME}
    if manifest.conformance is not None:
        unneeded.add(manifest.conformance.file)
    return {path: entry for path, entry in manifest.files.items() if path not in unneeded}


def open_artifact(folder: Path, *, check_digests: bool = True, plan: str | None = None) -> Artifact:
    """Check an artifact and map its base.

    Args:
        folder: Where it lies.
        plan: Only this plan will be used, so only its files need be there (:func:`files_of_plan`).
        check_digests: False is for a worker process whose parent has just checked: digests, initial
            heads and graphs are not looked at again. Sizes and the base's header still are.

    Raises:
        ArtifactNotFoundError: There is no artifact there, or one of its files is missing.
        ArtifactError: A rule of docs/artifact.md is broken; names the file.
        TensorFileError: The base or the initial heads break the format or the tensor table.
        StorageError: A file cannot be read.
    """
    folder = Path(folder)
    content = _manifest_bytes(folder)
    manifest = parse_manifest(content, where=str(folder / MANIFEST_NAME))
    needed = manifest.files if plan is None else files_of_plan(manifest, plan)
    _check_files(folder, manifest, needed, check_digests=check_digests)
    base_path = folder / BASE_NAME
    base_header = read_header(base_path, BASE_BOUNDS)
    _check_bases(base_header, manifest, str(base_path))
    digest = hashlib.sha256(content).hexdigest()
    if check_digests:
        load_heads(folder / HEADS_NAME, manifest, digest)
        for name, known in manifest.plans.items():
            form = PLAN_FORMS.get(name)
            if form is not None and form.domains and plan in {None, name}:
                check_graphs(folder, known, base_header, form)
    return Artifact(folder, manifest, digest, base_header, map_tensors(base_path, BASE_BOUNDS))


def _manifest_bytes(folder: Path) -> bytes:
    path = folder / MANIFEST_NAME
    hint = "name a folder that `ravan export` made"
    with storage_errors(path, "read the file"):
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            found = "no manifest.json in it" if folder.is_dir() else "there is no such folder"
            raise ArtifactNotFoundError(found, where=str(folder), hint=hint) from None
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError("not a regular file", where=str(path), hint=hint)
        with path.open("rb") as file:
            return file.read(MANIFEST_MAX_BYTES + 1)  # one too many: parse_manifest refuses


def _walk(folder: Path, prefix: str = "", depth: int = 1) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All files below ``folder`` as (relative path, entry); no link is followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                raise ArtifactError(
                    f"{path!r} is a symbolic link or no regular file",
                    where=str(folder),
                    hint="copy the artifact with its files in place of the links",
                )
            if entry.is_file():
                yield path, entry
            elif depth == _MAX_PARTS:
                raise ArtifactError("folders are nested too deeply", where=str(folder / entry.name))
            else:
                yield from _walk(folder / entry.name, f"{path}/", depth + 1)


def _check_files(
    folder: Path, manifest: Manifest, needed: Mapping[str, FileEntry], *, check_digests: bool
) -> None:
    """Every needed file is there; what is there is listed, with its size and digest."""
    missing = dict(manifest.files)
    with storage_errors(folder, "read the folder"):
        for path, entry in _walk(folder):
            if path in {MANIFEST_NAME, SIGNATURE_NAME}:
                continue
            listed = missing.pop(path, None)
            if listed is None:
                raise ArtifactError(
                    "the manifest does not list this file",
                    where=str(folder / path),
                    hint="take it out of the artifact's folder",
                )
            size = entry.stat(follow_symlinks=False).st_size
            if size != listed.size:
                raise _damaged(folder / path, f"{size} bytes, expected {listed.size}")
    if missing.keys() & needed.keys():
        path = min(missing.keys() & needed.keys())
        raise ArtifactNotFoundError(
            f"{path!r} is listed in the manifest but is missing",
            where=str(folder / path),
            hint="copy the whole artifact, or export it again",
        )
    if check_digests:
        for path, listed in manifest.files.items():
            if path in missing:
                continue
            found = sha256_file(folder / path)
            if found != listed.sha256:
                raise _damaged(folder / path, f"sha256 {found}, expected {listed.sha256}")


def _damaged(path: Path, message: str) -> ArtifactError:
    return ArtifactError(
        message,
        where=str(path),
        hint="the file is damaged or was changed: copy or download it again, or export again",
    )


def _check_bases(header: TensorHeader, manifest: Manifest, where: str) -> None:
    """The bases that the host feeds to graphs are in the base as float32."""
    for basis in manifest.bases:
        spec = header.specs.get(basis.name)
        if spec is None or (spec.dtype, spec.shape) != ("F32", basis.shape):
            found = "missing" if spec is None else f"{spec.dtype} {list(spec.shape)}"
            raise TensorFileError(
                f"is {found}, expected F32 {list(basis.shape)}",
                where=f"{where}: tensor {basis.name!r}",
                hint="export the artifact again",
            )
