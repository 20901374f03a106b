"""The tasks of this version."""

from __future__ import annotations

from collections.abc import Mapping

from ravan_edge.artifact import Manifest
from ravan_edge.errors import ArtifactError
from ravan_edge.tasks.causal_lm import CausalLanguage
from ravan_edge.tasks.image_classification import ImageClassification
from ravan_edge.tasks.masked_lm import MaskedLanguage
from ravan_edge.tasks.seq2seq import SequenceToSequence
from ravan_edge.tasks.task import Task
from ravan_edge.tasks.text_classification import TextClassification
from ravan_edge.tasks.token_classification import TokenClassification

__all__ = ["TASKS", "task_for"]

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        TextClassification(),
        TokenClassification(),
        MaskedLanguage(),
        CausalLanguage(),
        ImageClassification(),
        SequenceToSequence(),
    )
}


def task_for(manifest: Manifest) -> Task:
    """The task of an artifact.

    Raises:
        ArtifactError: This version cannot train it.
    """
    found = TASKS.get(manifest.task)
    if found is None:
        raise ArtifactError(
            f"task {manifest.task!r} is not known here; known are {', '.join(sorted(TASKS))}",
            hint="upgrade ravan-edge: pip install --upgrade ravan-edge",
        )
    return found
