"""An encoder as a function from a batch to logits: the form that is captured."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ravan_export.families.family import Family
from ravan_export.pooling import Pooling, SentenceHead, pool

__all__ = ["EncoderLogits"]


class EncoderLogits(nn.Module):
    """``forward(input_ids, attention_mask) -> logits`` around an unchanged Hugging Face model.

    The mask is handed over as the additive [batch, 1, 1, length] one that the model would make
    itself, which broadcasts: the model's own is [batch, 1, length, length].

    Args:
        model: A classifier that returns ``.logits``, or a bare encoder.
        family: What it takes.
        pooling: Of a bare encoder; None for a classifier.
        head: The linear task head of a bare encoder.
    """

    token_types: Tensor

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        pooling: Pooling | None = None,
        head: SentenceHead | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.family = family
        self.pooling = pooling
        self.task_head = head
        self.register_buffer("token_types", torch.zeros(1, 1, dtype=torch.int64), persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [batch, labels] of token ids and mask [batch, length]."""
        mask = attention_mask.to(torch.float32)
        hidden = torch.finfo(torch.float32).min * (1.0 - mask)
        inputs = {"input_ids": input_ids, "attention_mask": hidden[:, None, None, :]}
        if self.family.token_types:
            inputs["token_type_ids"] = self.token_types
        output = self.model(**inputs)
        if self.pooling is None or self.task_head is None:
            logits: Tensor = output.logits
            return logits
        features = pool(output.last_hidden_state, mask, self.pooling)
        scaled: Tensor = self.task_head(features)
        return scaled
