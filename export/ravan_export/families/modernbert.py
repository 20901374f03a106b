"""ModernBERT: rotary positions, layers with a window, gated products; no positions of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ravan_export.families.decoder import check_rope
from ravan_export.families.family import Family, Form

__all__ = ["MODERNBERT", "ModernBertOutput"]

Finish = Callable[[Any, Tensor, Tensor], Tensor]
"""From the Hugging Face model, token vectors and float mask [batch, length] to what the loss reads."""


class ModernBertOutput(nn.Module):
    """``forward(input_ids, attention_mask)`` around an unchanged Hugging Face model.

    Both masks are made here and handed over as the additive ones that the model would make itself:
    [batch, 1, 1, length] for layers that see all tokens, [batch, 1, length, length] for those with a
    window. A classifier that takes the mean needs the raw mask, so heads are called here too.

    Args:
        model: The Hugging Face model.
        finish: What follows the encoder; a bare encoder returns token vectors.

    Raises:
        ModelError: Its rotary positions change with the length of the batch.
    """

    def __init__(self, model: Any, *, finish: Finish) -> None:  # noqa: ANN401
        super().__init__()
        self.model = model
        self.finish = finish
        check_rope(model.config)
        # Half of local_attention, to each side, the end included.
        self.window = int(model.config.sliding_window)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What the loss reads, of token ids and mask [batch, length]."""
        mask = attention_mask.to(torch.float32)
        least = torch.finfo(torch.float32).min
        places = torch.arange(input_ids.shape[1])
        distance = places[:, None] - places[None, :]
        near = (distance <= self.window) & (distance >= -self.window)
        real = attention_mask[:, None, None, :] > 0
        # Finite, so that a row of padding alone is no NaN.
        masks = {
            "full_attention": (least * (1.0 - mask))[:, None, None, :],
            "sliding_attention": torch.zeros(1).masked_fill(torch.logical_not(near & real), least),
        }
        encoder = self.model.base_model
        hidden: Tensor = encoder(input_ids=input_ids, attention_mask=masks).last_hidden_state
        return hidden if encoder is self.model else self.finish(self.model, hidden, mask)


def _text(model: Any, hidden: Tensor, mask: Tensor) -> Tensor:  # noqa: ANN401
    if model.config.classifier_pooling == "mean":
        wide = mask.unsqueeze(-1)
        # A row of padding alone counts nothing, and must not become NaN.
        pooled = (hidden * wide).sum(1) / wide.sum(1).clamp(min=1.0)
    else:
        pooled = hidden[:, 0]
    found: Tensor = model.classifier(model.head(pooled))
    return found


def _tokens(model: Any, hidden: Tensor, mask: Tensor) -> Tensor:  # noqa: ANN401
    del mask
    found: Tensor = model.classifier(model.head(hidden))
    return found


def _words(model: Any, hidden: Tensor, mask: Tensor) -> Tensor:  # noqa: ANN401
    del mask
    found: Tensor = model.head(hidden)
    return found


MODERNBERT = Family(
    name="modernbert",
    model_types=("modernbert",),
    # Query, key and value are one matrix.
    targets=("Wqkv",),
    forms={
        "text-classification": Form(partial(ModernBertOutput, finish=_text)),
        "token-classification": Form(partial(ModernBertOutput, finish=_tokens)),
        "masked-lm": Form(partial(ModernBertOutput, finish=_words)),
    },
)
