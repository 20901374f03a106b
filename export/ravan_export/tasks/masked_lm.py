"""Masked language modelling, with the loss over slices of the vocabulary's logits."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from ravan_edge.errors import ModelError
from ravan_export.graph import Builder, Value
from ravan_export.source import Checkpoint, Source, check_complete
from ravan_export.special_tokens import SpecialTokens, special_tokens
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

__all__ = ["MaskedLanguage"]

_SHAPES = ((3, 9), (2, 14))
_MASKED = 3
"""In a conformance batch one of so many tokens is masked."""


class MaskedLanguage(Task):
    """An encoder with its pretrained masked-lm head; nothing but adapters trains."""

    name = "masked-lm"
    optimum_task = "fill-mask"
    dims = TEXT_DIMS
    label_dims = ("batch", "length")

    def load(self, checkpoint: Checkpoint, labels: tuple[str, ...]) -> Source:
        """Load it; its vocabulary matrix takes no adapters, since the loss reads it by itself."""
        del labels
        model, missing = checkpoint.load(self.optimum_task)
        _check_head(missing, str(model.base_model_prefix), checkpoint)
        head = model.get_output_embeddings()
        frozen: dict[str, Tensor | float] = {"vocabulary": head.weight}
        if head.bias is not None:
            frozen["bias"] = head.bias
        found = _special(checkpoint, int(head.weight.shape[0]))
        return Source(
            checkpoint=checkpoint,
            info=checkpoint.info(model),
            model=model,
            captured=checkpoint.form.capture(model).eval(),
            task_modules=tuple(name for name, module in model.named_modules() if module is head),
            frozen=frozen,
            text=text_settings(
                checkpoint,
                mask_id=found.mask_id,
                vocabulary=found.vocabulary,
                special_ids=found.special_ids,
            ),
            notices=text_notices(checkpoint),
        )

    def example(self, source: Source) -> dict[str, Tensor]:
        """Token ids and mask [3, 7]."""
        return text_example(source, self.optimum_task)

    def loss(
        self, builder: Builder, output: Value, labels: Value, frozen: Mapping[str, Value]
    ) -> Loss:
        """Of hidden states [batch, length, width] in front of the vocabulary matrix."""
        return VocabularyLoss(builder, frozen, self.options.loss_slices)(output, labels)

    def scores(
        self, builder: Builder, output: Value, labels: Value, frozen: Mapping[str, Value]
    ) -> Mapping[str, Value]:
        """The same without gradients."""
        over = VocabularyLoss(builder, frozen, self.options.loss_slices, gradient=False)
        return over(output, labels).outputs

    def batch(self, source: Source, use: int) -> dict[str, Array]:
        """Random tokens of which some are masked; of three rows the last has none that counts."""
        rows, length = _SHAPES[use]
        size = rows * length
        vocabulary = int(source.model.get_input_embeddings().weight.shape[0])
        words = random_words(self.options.seed, use, 2 * size)
        text = source.text
        assert text is not None  # noqa: S101  (made by load)
        ids, mask = padded_ids(words[:size], (rows, length), vocabulary, text.pad_id)
        masked = (words[size:].reshape(rows, length) % _MASKED == 0) & (mask == 1)
        masked[0, 0] = True
        if rows > 2:
            masked[-1] = False
        labels = ids.copy()
        labels[~masked] = IGNORED
        ids[masked] = text.mask_id
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def reference(
        self, source: Source, batch: Mapping[str, Tensor], values: Mapping[str, Tensor]
    ) -> Tensor:
        """All logits at once from the model itself; torch's cross entropy."""
        del values
        logits = source.model(**{name: batch[name] for name in TEXT_INPUTS}).logits
        return functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED, reduction="sum"
        )


def _check_head(missing: set[str], encoder: str, checkpoint: Checkpoint) -> None:
    """Refuse a bare encoder: a random head would learn nothing, since it never trains."""
    lost = sorted(name for name in missing if not name.startswith(f"{encoder}."))
    if lost:
        raise ModelError(
            f"the checkpoint has no head for masked-lm (no {lost[0]!r})",
            where=str(checkpoint.folder),
            hint="take the pretrained model itself, saved as ...ForMaskedLM, not an encoder or a "
            "classifier made from it",
        )
    check_complete(missing, (), checkpoint.folder)


def _special(checkpoint: Checkpoint, rows: int) -> SpecialTokens:
    if checkpoint.stored is None:  # an outline masks nothing
        return SpecialTokens(0, rows, ())
    found = special_tokens(checkpoint.folder, rows)
    if found.mask_id is None:
        raise ModelError(
            "the tokenizer has no mask token",
            where=str(checkpoint.folder),
            hint="masked-lm needs a model that was pretrained with one (BERT, RoBERTa, DistilBERT); if "
            "it has one, name it as mask_token in tokenizer_config.json",
        )
    return found
