"""The metadata of an update file: what it says about itself (docs/artifact.md, section 8)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ravan_edge.codecs import CodecName

__all__ = ["DIFFERENCE", "HEADS", "UpdateInfo", "complaint_about"]

# What the names of a layer's two tensors end in.
DIFFERENCE = ".D"
HEADS = ".heads"

_FIXED = {"format": "ravan-update", "schema": "1", "encoding": "plain"}
_CODEC = re.compile("|".join(CodecName))
_TASK = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class UpdateInfo:
    """What an update says about itself.

    Attributes:
        task: Id of the assignment, the key of exactly-once: 1 .. 64 of ``[A-Za-z0-9_-]``.
        version: The version of the heads it started from.
        artifact: The artifact digest.
        examples: Rows the device saw.
        steps: Steps it took.
        codec: How its numbers are written.
    """

    task: str
    version: int
    artifact: str
    examples: int
    steps: int
    codec: CodecName = CodecName.FP32

    def metadata(self) -> dict[str, str]:
        """As written into the file."""
        return {
            **_FIXED,
            "codec": str(self.codec),
            "task": self.task,
            "version": str(self.version),
            "artifact": self.artifact,
            "examples": str(self.examples),
            "steps": str(self.steps),
        }


def complaint_about(metadata: Mapping[str, str]) -> str | None:
    """What is wrong with the metadata of an update; None: nothing."""
    patterns = {
        "codec": _CODEC,
        "task": _TASK,
        "artifact": _DIGEST,
        "version": _DECIMAL,
        "examples": _DECIMAL,
        "steps": _DECIMAL,
    }
    for key, value in _FIXED.items():
        if metadata.get(key) != value:
            return f"metadata {key!r} is {str(metadata.get(key))[:64]!r}, expected {value!r}"
    for key, pattern in patterns.items():
        if not pattern.fullmatch(metadata.get(key, "")):
            found = str(metadata.get(key))[:64]
            return f"metadata {key!r} is {found!r}, expected {pattern.pattern}"
    more = sorted(metadata.keys() - _FIXED.keys() - patterns.keys())
    return f"metadata {more[0][:64]!r} is not known" if more else None
