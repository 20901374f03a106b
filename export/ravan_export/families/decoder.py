"""A decoder as a function from a batch to hidden states in front of its vocabulary matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ravan_edge.errors import ModelError
from ravan_export.families.family import Form

__all__ = ["CAUSAL", "QUERY_KEY_VALUE", "DecoderHidden", "check_rope"]

_FULL, _SLIDING = "full_attention", "sliding_attention"
_FIXED_ROPE = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary positions whose frequencies are computed when the model is loaded."""


class DecoderHidden(nn.Module):
    """``forward(input_ids, attention_mask)`` around an unchanged ``...ForCausalLM``.

    The masks are made here, of plain operators, and handed over as the additive
    [batch, 1, length, length] ones that the model would make itself: one for layers that see all
    earlier tokens, one for layers with a window.

    Args:
        model: The Hugging Face model.

    Raises:
        ModelError: Its positions or its attention depend on the batch in a way that has no exact
            graph.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.model = model
        config = model.config
        check_rope(config)
        if getattr(config, "use_bidirectional_attention", None):
            raise ModelError(
                "its attention looks ahead (use_bidirectional_attention), so it predicts no next token",
                where="config.json",
                hint="causal-lm needs a model that reads from left to right",
            )
        window = getattr(config, "sliding_window", None)
        layers = getattr(config, "layer_types", None)
        kinds = set(layers) if layers else {_FULL if window is None else _SLIDING}
        if kinds - {_FULL, _SLIDING} or (_SLIDING in kinds and not isinstance(window, int)):
            raise ModelError(
                f"attention of kind {', '.join(sorted(kinds))} with window {window!r} is not known",
                where="config.json",
                hint=f"known are {_FULL} and {_SLIDING}",
            )
        self.window = int(window or 0)
        self.kinds = sorted(kinds)
        self.by_layer = bool(layers)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states [batch, length, width] of token ids and mask [batch, length]."""
        places = torch.arange(input_ids.shape[1])
        back = places[:, None] - places[None, :]
        real = attention_mask[:, None, None, :] > 0
        masks = {}
        for kind in self.kinds:
            seen = back >= 0
            if kind == _SLIDING:
                seen = seen & (back < self.window)
            # Finite, so that a row of padding alone is no NaN.
            hidden = torch.logical_not(seen & real)
            masks[kind] = torch.zeros(1).masked_fill(hidden, torch.finfo(torch.float32).min)
        output = self.model.model(
            input_ids=input_ids,
            attention_mask=masks if self.by_layer else masks[self.kinds[0]],
            use_cache=False,
        )
        found: Tensor = output.last_hidden_state
        return found


def _ropes(parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """One set of rotary settings, or one for each kind of layer."""
    if "rope_type" in parameters:
        yield parameters
    else:
        yield from (item for item in parameters.values() if item is not None)


def check_rope(config: Any) -> None:  # noqa: ANN401
    """Refuse rotary positions that change with the length of the batch.

    Raises:
        ModelError: Names the kind.
    """
    for rope in _ropes(getattr(config, "rope_parameters", None) or {}):
        kind = rope.get("rope_type")
        if kind not in _FIXED_ROPE:
            raise ModelError(
                f"rotary positions of kind {kind!r} change with the length of the batch, so padding "
                "would change the result",
                where="config.json",
                hint=f"exact are {', '.join(_FIXED_ROPE)}: set rope_parameters to one of these if "
                "your texts are no longer than the model was first trained for",
            )


CAUSAL = {"causal-lm": Form(DecoderHidden)}
"""The forms of a decoder."""

QUERY_KEY_VALUE = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
"""What decoders call these layers."""
