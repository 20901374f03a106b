"""An encoder as a function from a batch to logits: the form that is captured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ravan_export.families.family import Form

__all__ = ["EncoderHidden", "EncoderOutput", "Transform", "encoder_forms"]

Transform = Callable[[Any, Tensor], Tensor]
"""From a ``...ForMaskedLM`` and token vectors to what its vocabulary matrix multiplies."""


class EncoderOutput(nn.Module):
    """``forward(input_ids, attention_mask)`` around an unchanged Hugging Face model.

    The mask is handed over as the additive [batch, 1, 1, length] one that the model would make
    itself, which broadcasts: the model's own is [batch, 1, length, length].

    Args:
        model: A classifier that returns ``.logits``, or a bare encoder.
        token_types: Whether the model takes ``token_type_ids`` (a single text has only zeros, which
            are then folded into the graph).
    """

    token_types: Tensor

    def __init__(self, model: nn.Module, *, token_types: bool = False) -> None:
        super().__init__()
        self.model = model
        self.takes_token_types = token_types
        self.register_buffer("token_types", torch.zeros(1, 1, dtype=torch.int64), persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits of a classifier, else token vectors [batch, length, width].

        Args:
            input_ids: [batch, length].
            attention_mask: [batch, length], 1 for tokens and 0 for padding.
        """
        output = self.model(**self.inputs(input_ids, attention_mask))
        found: Tensor = output.logits if "logits" in output else output.last_hidden_state
        return found

    def inputs(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """What the model, or the encoder in it, is called with."""
        mask = attention_mask.to(torch.float32)
        hidden = torch.finfo(torch.float32).min * (1.0 - mask)
        inputs = {"input_ids": input_ids, "attention_mask": hidden[:, None, None, :]}
        if self.takes_token_types:
            inputs["token_type_ids"] = self.token_types
        return inputs


class EncoderHidden(EncoderOutput):
    """The same around a ``...ForMaskedLM``, up to what its vocabulary matrix multiplies.

    Args:
        model: The Hugging Face model.
        transform: Its head in front of the vocabulary matrix.
        token_types: Whether the model takes ``token_type_ids``.
    """

    transform: Transform

    def __init__(
        self, model: nn.Module, *, transform: Transform, token_types: bool = False
    ) -> None:
        super().__init__(model, token_types=token_types)
        self.transform = transform

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states [batch, length, width] of token ids and mask [batch, length]."""
        encoder: Any = self.model.base_model
        output = encoder(**self.inputs(input_ids, attention_mask))
        return self.transform(self.model, output.last_hidden_state)


def encoder_forms(transform: Transform, *, token_types: bool = False) -> Mapping[str, Form]:
    """What encoders of BERT's kind can do.

    Args:
        transform: The masked-lm head in front of the vocabulary matrix.
        token_types: Whether the model takes ``token_type_ids``.
    """
    whole = Form(partial(EncoderOutput, token_types=token_types))
    words = Form(partial(EncoderHidden, transform=transform, token_types=token_types))
    return {"text-classification": whole, "token-classification": whole, "masked-lm": words}
