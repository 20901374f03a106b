"""Causal language modelling: the next token, with the loss over slices of the vocabulary's logits."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from ravan_export.graph import Builder, Value
from ravan_export.prompt import chat_prompt
from ravan_export.source import Checkpoint, Source, check_complete
from ravan_export.tasks.task import IGNORED, Array, Loss, Task
from ravan_export.tasks.text import (
    TEXT_DIMS,
    TEXT_INPUTS,
    padded_ids,
    random_words,
    text_example,
    text_settings,
)
from ravan_export.tasks.vocabulary import VocabularyLoss, next_tokens
from ravan_export.tokenizer import special_token_id

__all__ = ["CausalLanguage"]

_SHAPES = ((3, 9), (2, 14))
_PROMPT = 3


class CausalLanguage(Task):
    """A decoder; nothing but adapters trains."""

    name = "causal-lm"
    optimum_task = "text-generation"
    dims = TEXT_DIMS
    label_dims = ("batch", "length")

    def load(self, checkpoint: Checkpoint, labels: tuple[str, ...]) -> Source:
        """Load it; its vocabulary matrix takes no adapters, since the loss reads it by itself."""
        del labels
        model, missing = checkpoint.load(self.optimum_task)
        check_complete(missing, (), checkpoint.folder)
        head = model.get_output_embeddings()
        frozen: dict[str, Tensor | float] = {"vocabulary": head.weight}
        if head.bias is not None:
            frozen["bias"] = head.bias
        if getattr(model.config, "final_logit_softcapping", None):
            frozen["softcap"] = float(model.config.final_logit_softcapping)
        words = int(head.weight.shape[0])
        end_id = special_token_id(checkpoint, "eos", words)
        pad_id = special_token_id(checkpoint, "pad", words)
        prompt, notices = chat_prompt(checkpoint.folder)
        if end_id is None:
            end_id = 0
            notices = (*notices, "no token ends a text: 0 stands for it")
        return Source(
            checkpoint=checkpoint,
            info=checkpoint.info(model),
            model=model,
            captured=checkpoint.form.capture(model).eval(),
            task_modules=tuple(name for name, module in model.named_modules() if module is head),
            frozen=frozen,
            # With a mask any id may stand for padding.
            text=text_settings(
                checkpoint,
                pad_id=end_id if pad_id is None else pad_id,
                end_id=end_id,
                prompt=prompt,
            ),
            notices=notices,
        )

    def example(self, source: Source) -> dict[str, Tensor]:
        """Token ids and mask [3, 7]."""
        return text_example(source, self.optimum_task)

    def loss(
        self, builder: Builder, output: Value, labels: Value, frozen: Mapping[str, Value]
    ) -> Loss:
        """Of hidden states [batch, length, width]: the output at t against the label at t + 1."""
        over = VocabularyLoss(builder, frozen, self.options.loss_slices)
        return over(output, next_tokens(builder, labels))

    def scores(
        self, builder: Builder, output: Value, labels: Value, frozen: Mapping[str, Value]
    ) -> Mapping[str, Value]:
        """The same without gradients."""
        over = VocabularyLoss(builder, frozen, self.options.loss_slices, gradient=False)
        return over(output, next_tokens(builder, labels)).outputs

    def batch(self, source: Source, use: int) -> dict[str, Array]:
        """Random tokens that are their own labels, but for a prompt; of three rows the last has none."""
        rows, length = _SHAPES[use]
        vocabulary = int(source.model.get_input_embeddings().weight.shape[0])
        words = random_words(self.options.seed, use, rows * length)
        pad_id = source.text.pad_id if source.text else 0
        ids, mask = padded_ids(words, (rows, length), vocabulary, pad_id)
        labels = ids.copy()
        labels[mask == 0] = IGNORED
        labels[0, :_PROMPT] = IGNORED
        if rows > 2:
            labels[-1] = IGNORED
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def reference(
        self, source: Source, batch: Mapping[str, Tensor], values: Mapping[str, Tensor]
    ) -> Tensor:
        """All logits at once from the model itself; torch's cross entropy of the shifted ones."""
        del values
        inputs = {name: batch[name] for name in TEXT_INPUTS}
        logits = source.model(**inputs, use_cache=False).logits
        return functional.cross_entropy(
            logits[:, :-1].flatten(0, 1),
            batch["labels"][:, 1:].flatten(),
            ignore_index=IGNORED,
            reduction="sum",
        )
