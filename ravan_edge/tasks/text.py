"""What tasks that read text share."""

from __future__ import annotations

from pathlib import Path

from ravan_edge.artifact import Artifact
from ravan_edge.artifact.manifest import TextSettings
from ravan_edge.errors import ArtifactError

__all__ = ["text_of"]


def text_of(artifact: Artifact) -> tuple[TextSettings, Path]:
    """How an artifact reads texts, and its tokenizer's file.

    Raises:
        ArtifactError: It reads none.
    """
    text, tokenizer = artifact.manifest.text, artifact.tokenizer_path
    if text is None or tokenizer is None:
        raise ArtifactError(
            "this artifact reads no text", where=str(artifact.folder), hint="take one for texts"
        )
    return text, tokenizer
