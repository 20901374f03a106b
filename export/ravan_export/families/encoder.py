"""An encoder as a function from a batch to logits: the form that is captured."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ravan_export.families.family import Form

__all__ = ["EncoderOutput", "encoder_forms"]


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
        mask = attention_mask.to(torch.float32)
        hidden = torch.finfo(torch.float32).min * (1.0 - mask)
        inputs = {"input_ids": input_ids, "attention_mask": hidden[:, None, None, :]}
        if self.takes_token_types:
            inputs["token_type_ids"] = self.token_types
        output = self.model(**inputs)
        found: Tensor = output.logits if "logits" in output else output.last_hidden_state
        return found


def encoder_forms(*, token_types: bool = False) -> Mapping[str, Form]:
    """What encoders of BERT's kind can do."""
    whole = Form(partial(EncoderOutput, token_types=token_types))
    return {"text-classification": whole, "token-classification": whole}
