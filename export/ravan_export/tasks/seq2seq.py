"""Sequence to sequence: the loss of a decoder's next token, over slices of the vocabulary's logits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ravan_edge.errors import ModelError
from ravan_export.graph import Builder, Value
from ravan_export.source import Checkpoint, Source, check_complete
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
from ravan_export.tasks.vocabulary import VocabularyLoss
from ravan_export.tokenizer import special_token_id

__all__ = ["SequenceToSequence"]

_DECODER_INPUTS = ("decoder_input_ids", "decoder_attention_mask")
_INPUTS = (*TEXT_INPUTS, *_DECODER_INPUTS)
_SHAPES = (((3, 9), (3, 6)), ((2, 7), (2, 12)))


class SequenceToSequence(Task):
    """An encoder and a decoder; nothing but adapters trains, in both."""

    name = "seq2seq"
    optimum_task = "text2text-generation"
    dims = TEXT_DIMS | {name: {0: "batch", 1: "target_length"} for name in _DECODER_INPUTS}
    label_dims = ("batch", "target_length")

    def load(self, checkpoint: Checkpoint, labels: tuple[str, ...]) -> Source:
        """Load it; its vocabulary matrix takes no adapters, since the loss reads it by itself."""
        del labels
        model, missing = checkpoint.load(self.optimum_task)
        check_complete(missing, (), checkpoint.folder)
        head = model.get_output_embeddings()
        words = int(head.weight.shape[0])
        end_id = special_token_id(checkpoint, "eos", words)
        if end_id is None:
            raise ModelError(
                "no token ends a text: eos_token_id is missing",
                where=str(checkpoint.folder / "config.json"),
                hint="add it: the id of the tokenizer's end-of-sequence token",
            )
        pad_id = special_token_id(checkpoint, "pad", words) or 0
        start_id = special_token_id(checkpoint, "decoder_start", words)
        notices = text_notices(checkpoint)
        if start_id is None:
            start_id = pad_id
            notices = (
                *notices,
                "config.json names no decoder_start_token_id: padding stands for it",
            )
        return Source(
            checkpoint=checkpoint,
            info=checkpoint.info(model),
            model=model,
            captured=checkpoint.form.capture(model).eval(),
            task_modules=tuple(name for name, module in model.named_modules() if module is head),
            frozen={"vocabulary": head.weight},
            text=text_settings(
                checkpoint,
                pad_id=pad_id,
                end_id=end_id,
                decoder_start_id=start_id,
                inputs=_INPUTS,
            ),
            notices=notices,
        )

    def example(self, source: Source) -> dict[str, Tensor]:
        """Token ids and masks [3, 7] and [3, 5]."""
        written = {name: torch.ones(3, 5, dtype=torch.int64) for name in _DECODER_INPUTS}
        return text_example(source, self.optimum_task) | written

    def loss(
        self, builder: Builder, output: Value, labels: Value, frozen: Mapping[str, Value]
    ) -> Loss:
        """Of hidden states [batch, target_length, width]: each against its own label."""
        return VocabularyLoss(builder, frozen, self.options.loss_slices)(output, labels)

    def scores(
        self, builder: Builder, output: Value, labels: Value, frozen: Mapping[str, Value]
    ) -> Mapping[str, Value]:
        """The same without gradients."""
        over = VocabularyLoss(builder, frozen, self.options.loss_slices, gradient=False)
        return over(output, labels).outputs

    def batch(self, source: Source, use: int) -> dict[str, Array]:
        """Random sources and targets; of three rows the last has no label."""
        read, written = _SHAPES[use]
        text = source.text
        pad_id, start_id = (text.pad_id, text.decoder_start_id) if text else (0, 0)
        vocabulary = int(source.model.get_input_embeddings().weight.shape[0])
        size = read[0] * read[1]
        words = random_words(self.options.seed, use, size + written[0] * written[1])
        ids, mask = padded_ids(words[:size], read, vocabulary, pad_id)
        target, target_mask = padded_ids(words[size:], written, vocabulary, pad_id)
        start = np.full((written[0], 1), start_id, np.int64)
        labels = np.where(target_mask == 1, target, IGNORED)
        if written[0] > 2:
            labels[-1] = IGNORED
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "decoder_input_ids": np.concatenate([start, target[:, :-1]], axis=1),
            "decoder_attention_mask": target_mask,
            "labels": labels,
        }

    def reference(
        self, source: Source, batch: Mapping[str, Tensor], values: Mapping[str, Tensor]
    ) -> Tensor:
        """All logits at once from the model itself, which makes its own masks; torch's cross entropy."""
        del values
        inputs = {name: batch[name] for name in _INPUTS}
        logits = source.model(**inputs, use_cache=False).logits
        return functional.cross_entropy(
            logits.flatten(0, 1),
            batch["labels"].flatten(),
            ignore_index=IGNORED,
            reduction="sum",
        )
