"""Token classification: one label for each word, on its first token."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from ravan_export.graph import Builder, Value
from ravan_export.source import Checkpoint, Source
from ravan_export.tasks.classifier import load_classifier
from ravan_export.tasks.rows import cross_entropy
from ravan_export.tasks.task import IGNORED, Array, Loss, Task
from ravan_export.tasks.text import (
    TEXT_DIMS,
    TEXT_INPUTS,
    padded_ids,
    random_words,
    text_example,
    text_notices,
    text_settings,
)

__all__ = ["TokenClassification"]

_SHAPES = ((3, 9), (2, 14))
_UNLABELLED = 3
"""In a conformance batch every so many tokens have no label: later tokens of a word."""


class TokenClassification(Task):
    """A classifier of tokens with its own head, or with a new one where the checkpoint has none."""

    name = "token-classification"
    optimum_task = "token-classification"
    dims = TEXT_DIMS
    label_dims = ("batch", "length")

    def load(self, checkpoint: Checkpoint, labels: tuple[str, ...]) -> Source:
        """The Hugging Face class for token classification; its head trains in full."""
        found = load_classifier(
            checkpoint,
            self.optimum_task,
            labels,
            self.options.seed,
            suffix="ForTokenClassification",
        )
        return Source(
            checkpoint=checkpoint,
            info=checkpoint.info(found.model),
            model=found.model,
            captured=checkpoint.form.capture(found.model).eval(),
            labels=labels,
            task_modules=found.modules,
            task_head=found.head,
            text=text_settings(checkpoint),
            notices=(*found.notices, *text_notices(checkpoint)),
        )

    def example(self, source: Source) -> dict[str, Tensor]:
        """Token ids and mask [3, 7]."""
        return text_example(source, self.optimum_task)

    def loss(
        self, builder: Builder, output: Value, labels: Value, frozen: Mapping[str, Value]
    ) -> Loss:
        """Cross entropy of the logits [batch, length, labels], over tokens with a label."""
        del frozen
        tokens, classes = "batch*length", output.shape[-1]
        found = cross_entropy(
            builder,
            builder.reshape(output, (tokens, classes)),
            builder.reshape(labels, (tokens,)),
        )
        return Loss(found.outputs, builder.reshape(found.gradient, output.shape))

    def batch(self, source: Source, use: int) -> dict[str, Array]:
        """Random tokens; padding, first and last tokens and some others have no label."""
        rows, length = _SHAPES[use]
        words = random_words(self.options.seed, use, 2 * rows * length)
        vocabulary = int(source.model.get_input_embeddings().weight.shape[0])
        pad_id = source.text.pad_id if source.text else 0
        ids, mask = padded_ids(words[: rows * length], (rows, length), vocabulary, pad_id)
        labels = words[rows * length :].reshape(rows, length) % len(source.labels)
        labels[:, ::_UNLABELLED] = IGNORED
        labels[mask == 0] = IGNORED
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def reference(
        self, source: Source, batch: Mapping[str, Tensor], values: Mapping[str, Tensor]
    ) -> Tensor:
        """The model makes its own mask from the raw one; the loss is torch's."""
        inputs = {name: batch[name] for name in TEXT_INPUTS}
        own = {full: values[name] for name, (full, _) in source.task_head.items()}
        logits = torch.func.functional_call(source.model, own, kwargs=inputs).logits
        return functional.cross_entropy(
            logits.flatten(0, 1),
            batch["labels"].flatten(),
            ignore_index=IGNORED,
            reduction="sum",
        )
