"""Text classification: one label for each text."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from ravan_edge.errors import ModelError
from ravan_export.graph import Builder, Value
from ravan_export.pooling import Pooling, SentenceHead, SentenceLogits, read_pooling
from ravan_export.source import Checkpoint, Source, check_complete
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

__all__ = ["TextClassification"]

_SHAPES = ((3, 9), (2, 14))


class TextClassification(Task):
    """A classifier with its own head, or an encoder whose pooled vectors enter a linear head."""

    name = "text-classification"
    optimum_task = "text-classification"
    dims = TEXT_DIMS
    label_dims = ("batch",)

    def load(self, checkpoint: Checkpoint, labels: tuple[str, ...]) -> Source:
        """Load it; a folder that declares a pooling, or a form that does, gets a linear head."""
        pooling = read_pooling(checkpoint.folder) or checkpoint.form.pooling
        if pooling is not None:
            return _sentence_encoder(checkpoint, labels, pooling)
        found = load_classifier(
            checkpoint,
            self.optimum_task,
            labels,
            self.options.seed,
            suffix="ForSequenceClassification",
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
        """Cross entropy of the logits [batch, labels]."""
        del frozen
        return cross_entropy(builder, output, labels)

    def batch(self, source: Source, use: int) -> dict[str, Array]:
        """Random tokens; with three rows the last one has no label."""
        rows, length = _SHAPES[use]
        words = random_words(self.options.seed, use, rows * length + rows)
        vocabulary = int(source.model.get_input_embeddings().weight.shape[0])
        pad_id = source.text.pad_id if source.text else 0
        ids, mask = padded_ids(words[: rows * length], (rows, length), vocabulary, pad_id)
        labels = words[rows * length :] % len(source.labels)
        if rows > 2:
            labels[-1] = IGNORED
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def reference(
        self, source: Source, batch: Mapping[str, Tensor], values: Mapping[str, Tensor]
    ) -> Tensor:
        """The model makes its own mask from the raw one; pooling and loss are torch's."""
        return functional.cross_entropy(
            _logits(source, batch, values), batch["labels"], ignore_index=IGNORED, reduction="sum"
        )


def _sentence_encoder(checkpoint: Checkpoint, labels: tuple[str, ...], pooling: Pooling) -> Source:
    _refuse_own_head(checkpoint)
    model, missing = checkpoint.load("feature-extraction")
    check_complete(missing, ("pooler",), checkpoint.folder)
    head = SentenceHead(pooling.width(model.config.hidden_size), len(labels))
    head.requires_grad_(requires_grad=False)
    return Source(
        checkpoint=checkpoint,
        info=checkpoint.info(model),
        model=model,
        captured=SentenceLogits(checkpoint.form.capture(model), pooling, head).eval(),
        labels=labels,
        task_head={
            f"task_head.{key}": (f"task_head.{key}", tensor.detach().numpy())
            for key, tensor in head.named_parameters()
        },
        text=text_settings(checkpoint),
        pooling=pooling,
        notices=text_notices(checkpoint),
    )


def _refuse_own_head(checkpoint: Checkpoint) -> None:
    """A trained classifier that would be thrown away silently."""
    named = str((checkpoint.config.architectures or [""])[0])
    if checkpoint.form.pooling is not None and named.endswith("ForSequenceClassification"):
        raise ModelError(
            f"{named} has a task head of its own, behind a decoder: it cannot be kept",
            where=str(checkpoint.folder),
            hint="export the model it was made from; its encoder gets a new task head",
        )


def _pooled(pooling: Pooling, hidden: Tensor, mask: Tensor) -> Tensor:
    """Sentence vectors of fixed scale, as sentence-transformers pools and torch normalises."""
    parts = []
    for mode in pooling.modes:
        if mode == "cls":
            parts.append(hidden[:, 0])
        elif mode == "mean":
            kept = [row[keep.bool()].mean(0) for row, keep in zip(hidden, mask, strict=True)]
            parts.append(torch.stack(kept))
        else:
            parts.append(
                torch.stack(
                    [row[keep.bool()].amax(0) for row, keep in zip(hidden, mask, strict=True)]
                )
            )
    features = torch.cat(parts, 1)
    if pooling.dense is not None:
        features = pooling.dense.applied(features)
    scaled: Tensor = functional.normalize(features) * features.shape[1] ** 0.5
    return scaled


def _logits(source: Source, batch: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Tensor:
    inputs = {name: batch[name] for name in TEXT_INPUTS}
    if source.pooling is not None:
        hidden = source.model(**inputs).last_hidden_state
        features = _pooled(source.pooling, hidden, inputs["attention_mask"])
        return functional.linear(features, values["task_head.weight"], values["task_head.bias"])
    own = {full: values[name] for name, (full, _) in source.task_head.items()}
    logits: Tensor = torch.func.functional_call(source.model, own, kwargs=inputs).logits
    return logits
