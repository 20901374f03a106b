"""``merge_artifact``: trained heads in, a model for other tools out; checked before it is named.

torch is imported by the targets that need it only: ``onnx`` does not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ravan_edge.artifact.heads import heads_version, read_heads
from ravan_edge.artifact.opening import open_artifact
from ravan_edge.errors import UsageError
from ravan_edge.files import sha256_file
from ravan_edge.methods import method_for
from ravan_export.merge.check import Gap, expectations
from ravan_export.merge.folder import MergedFolder
from ravan_export.merge.work import Progress, Work
from ravan_export.settings import Trust

__all__ = ["TARGETS", "Merged", "Target", "merge_artifact"]

Target = Literal["hf", "peft", "onnx", "artifact"]
_NOTHING_MORE = Trust()
TARGETS: tuple[Target, ...] = ("hf", "peft", "onnx", "artifact")


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged model that was written.

    Args:
        folder: Where it is.
        to: What it is.
        version: Of the heads.
        files: Bytes of each file.
        gap: How far its results are from the artifact's; None where that was not computed.
        notices: What a person should know.
        details: What only this target has (``--json`` shows it): errors by layer of a lower rank,
            the size without quantisation, the digest of the new artifact.
    """

    folder: Path
    to: Target
    version: int
    files: Mapping[str, int]
    gap: Gap | None
    notices: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(self.files.values())


def merge_artifact(
    artifact: str | os.PathLike[str],
    heads: str | os.PathLike[str] | None,
    to: Target | str,
    out: str | os.PathLike[str],
    *,
    model: str | None = None,
    rank: int | None = None,
    quantise: str | None = None,
    seed: int | None = None,
    data: str | os.PathLike[str] | None = None,
    text_column: str | None = None,
    overwrite: bool = False,
    allow_pickle: bool = Trust.allow_pickle,
    trust_remote_code: bool = Trust.trust_remote_code,
    progress: Progress = lambda _: None,
    announce: Progress = lambda _: None,
) -> Merged:
    """Fold trained heads into a model for other tools.

    The result is built beside ``out``, compared with the artifact's own evaluation, and only then
    given its name.

    Args:
        artifact: The artifact's folder.
        heads: Saved heads; None: the initial ones.
        to: ``hf``, ``peft``, ``onnx`` or ``artifact``.
        out: The new folder; its parent must exist.
        model: The Hugging Face folder or hub id the artifact was made from; None: what the manifest
            calls it. ``onnx`` needs none.
        rank: Of the adapter (``peft``); None: exact.
        quantise: ``int8`` or None (``onnx``).
        seed: Of the fresh bases (``artifact``); None: the old one plus 1.
        data: A file of texts to compare on (``onnx``).
        text_column: Its column of texts; None: found by its usual names.
        overwrite: Replace a folder that ``ravan merge`` or ``ravan export`` made.
        allow_pickle: Read the model's pickled weights where there are no safetensors; only tensors
            are taken from them.
        trust_remote_code: Run Python code that came with the model.
        progress: Told what is going on.
        announce: Told which code is going to be run.

    Raises:
        UsageError: An option makes no sense, or something is at ``out`` already.
        ArtifactError: The artifact or the heads are refused, or belong to each other not.
        ModelError: The model is not there, is another one, or cannot be merged.
        DataError: The data file is refused.
        NumericsError: A merged weight is too large.
        StorageError: The disk is full, or the like; nothing stays behind.
    """
    trust = Trust(allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    check_options(to, model=model, rank=rank, quantise=quantise, seed=seed, data=data, trust=trust)
    with MergedFolder(Path(out), overwrite=overwrite) as folder:
        opened = open_artifact(Path(artifact))
        path = None if heads is None else Path(heads)
        tensors = opened.initial_heads() if path is None else read_heads(path, opened)
        version = 0 if path is None else heads_version(path, opened)
        batches = None
        if data is not None:
            from ravan_export.merge.texts import text_batches

            batches = text_batches(opened, Path(data), text_column)
        progress("running the artifact")
        vector = method_for(opened.manifest).layout.pack(tensors)
        expected = expectations(opened, vector)
        work = Work(opened, tensors, version, expected, folder, model, progress, trust, announce)
        if to == "hf":
            from ravan_export.merge.to_hf import merge_hf

            merge_hf(work)
        elif to == "peft":
            from ravan_export.merge.to_peft import merge_peft

            merge_peft(work, rank)
        elif to == "onnx":
            from ravan_export.merge.to_onnx import merge_onnx

            merge_onnx(work, quantise, batches)
        else:
            from ravan_export.merge.to_artifact import merge_to_artifact

            merge_to_artifact(work, seed)
        files = folder.publish(None if to == "artifact" else _record(work, to, path))
    return Merged(
        folder.destination, _target(to), version, files, work.gap, tuple(work.notices), work.details
    )


def _record(work: Work, to: str, heads: Path | None) -> dict[str, Any]:
    """What was merged, for whoever finds the folder later."""
    manifest = work.artifact.manifest
    return {
        "format": "ravan-merge",
        "schema": 1,
        "to": to,
        "artifact": work.artifact.digest,
        "heads": work.artifact.heads_digest if heads is None else sha256_file(heads),
        "version": work.version,
        "model": manifest.model.name,
        "method": manifest.method.name,
        "task": manifest.task,
    }


def _target(to: str) -> Target:
    for known in TARGETS:
        if to == known:
            return known
    raise UsageError(
        f"{to!r} is nothing to merge to", where="--to", hint=f"choose one of {', '.join(TARGETS)}"
    )


def check_options(
    to: str,
    *,
    model: str | None,
    rank: int | None,
    quantise: str | None,
    seed: int | None,
    data: object,
    trust: Trust = _NOTHING_MORE,
) -> None:
    """Refuse an unknown target, and options that it does not have.

    Raises:
        UsageError: Names the option.
    """
    _target(to)
    allowed = {
        "--model": ("hf", "peft", "artifact"),
        "--rank": ("peft",),
        "--quantise": ("onnx",),
        "--seed": ("artifact",),
        "--data": ("onnx",),
        "--allow-pickle": ("hf", "peft", "artifact"),
        "--trust-remote-code": ("hf", "peft", "artifact"),
    }
    given = {
        "--model": model,
        "--rank": rank,
        "--quantise": quantise,
        "--seed": seed,
        "--data": data,
        "--allow-pickle": trust.allow_pickle or None,
        "--trust-remote-code": trust.trust_remote_code or None,
    }
    for name in ("--allow-pickle", "--trust-remote-code"):
        if given[name] and model is None and to in allowed[name]:
            # Else the artifact, which may come from anybody, would say whose files are opened so.
            raise UsageError(
                "needs --model: say yourself which model is trusted",
                where=name,
                hint="add --model with the folder or hub id",
            )
    for name, value in given.items():
        if value is not None and to not in allowed[name]:
            raise UsageError(
                f"--to {to} does not take it",
                where=name,
                hint=f"it belongs to --to {' or '.join(allowed[name])}",
            )
    if quantise not in {None, "int8"}:
        raise UsageError(
            f"{quantise!r} is no way to quantise", where="--quantise", hint="known is int8"
        )
    if seed is not None and not 0 <= seed < 1 << 64:
        raise UsageError(f"{seed} is out of range, expected 0 to 2^64 - 1", where="--seed")
