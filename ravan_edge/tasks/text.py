"""What tasks that read text share."""

from __future__ import annotations

from pathlib import Path

from ravan_edge.artifact import Artifact
from ravan_edge.artifact.manifest import TextSettings
from ravan_edge.errors import ArtifactError, UsageError

__all__ = ["no_prediction", "text_of"]


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


def no_prediction(task: str, does: str) -> UsageError:
    """The error of a task that has no label to predict; its merged model ``does`` something else."""
    return UsageError(
        f"task {task!r} gives no label to a text",
        hint=f"`ravan merge --to hf` makes a model that {does} with transformers",
    )
