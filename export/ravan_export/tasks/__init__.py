"""Tasks: how a model is loaded for one, and how a loss sum, its count and the metrics are formed."""

from collections.abc import Mapping

from ravan_export.tasks.causal_lm import CausalLanguage
from ravan_export.tasks.image_classification import ImageClassification
from ravan_export.tasks.masked_lm import MaskedLanguage
from ravan_export.tasks.seq2seq import SequenceToSequence
from ravan_export.tasks.task import IGNORED, Loss, Task
from ravan_export.tasks.text_classification import TextClassification
from ravan_export.tasks.token_classification import TokenClassification

__all__ = ["IGNORED", "TASKS", "Loss", "Task"]

TASKS: Mapping[str, type[Task]] = {
    task.name: task
    for task in (
        TextClassification,
        TokenClassification,
        MaskedLanguage,
        CausalLanguage,
        ImageClassification,
        SequenceToSequence,
    )
}
"""By the name that the manifest and ``--task`` use."""
