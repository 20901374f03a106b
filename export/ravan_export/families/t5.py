"""T5 and mT5: relative positions, root mean square norms, attention without scaling.

The modules that are captured call the model's own blocks. What a stack makes once for all of them is
made here: the position bias with the mask already in it, so that a block adds one array to its scores
instead of two, and bucket numbers from a table. The model computes these by a logarithm whose
rounding differs between runtimes, and at a bucket's edge the last bit chooses another bucket.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MT5EncoderModel,
    MT5ForConditionalGeneration,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from ravan_export.families.family import Family, Form
from ravan_export.pooling import Pooling

__all__ = ["MT5", "T5", "DecoderVectors", "EncoderVectors"]

_MASKED = torch.finfo(torch.float32).min


def _bucket_table(stack: Any) -> Tensor:  # noqa: ANN401  (transformers' T5Stack)
    """Buckets of the offsets -d .. d, int64 [2 d + 1]; what lies further is in the outermost."""
    attention = stack.block[0].layer[0].SelfAttention
    furthest = attention.relative_attention_max_distance
    table: Tensor = attention._relative_position_bucket(
        torch.arange(-furthest, furthest + 1),
        bidirectional=not attention.is_decoder,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=furthest,
    )
    return table


def _offsets(length: int) -> Tensor:
    """How far behind the query a key stands, int64 [length, length]."""
    places = torch.arange(length)
    return places[None, :] - places[:, None]


def _position_bias(stack: Any, buckets: Tensor, offsets: Tensor) -> Tensor:  # noqa: ANN401
    """What all blocks of a stack add to their scores, [1, heads, length, length]."""
    furthest = buckets.shape[0] // 2
    of_buckets = stack.block[0].layer[0].SelfAttention.relative_attention_bias(buckets)
    near = offsets.clamp(min=-furthest, max=furthest) + furthest
    found = nn.functional.embedding(near, of_buckets)
    return found.permute(2, 0, 1).unsqueeze(0)


def _hidden(mask: Tensor) -> Tensor:
    """Added to scores: nothing for tokens, the least number for padding; [batch, 1, 1, length]."""
    return (_MASKED * (1.0 - mask.to(torch.float32)))[:, None, None, :]


def _encoded(stack: Any, buckets: Tensor, ids: Tensor, hidden: Tensor) -> Tensor:  # noqa: ANN401
    """Token vectors of the encoder, [batch, length, width]."""
    bias = _position_bias(stack, buckets, _offsets(ids.shape[1])) + hidden
    x = stack.embed_tokens(ids)
    for block in stack.block:
        x = block(x, position_bias=bias)[0]
    found: Tensor = stack.final_layer_norm(x)
    return found


class EncoderVectors(nn.Module):
    """``forward(input_ids, attention_mask)`` around an unchanged ``T5EncoderModel``.

    Args:
        model: The encoder.
    """

    buckets: Tensor

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.model = model
        self.register_buffer("buckets", _bucket_table(model.encoder), persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token vectors [batch, length, width] of token ids and mask [batch, length]."""
        return _encoded(self.model.encoder, self.buckets, input_ids, _hidden(attention_mask))


class DecoderVectors(nn.Module):
    """An unchanged model with a decoder, up to what its vocabulary matrix reads.

    Args:
        model: ``T5ForConditionalGeneration`` or ``MT5ForConditionalGeneration``.
    """

    buckets: Tensor
    decoder_buckets: Tensor

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.model = model
        # T5 v1.0 ties the matrix to its embeddings and scales what enters it; v1.1 and mT5 do not.
        scaled = getattr(model.config, "scale_decoder_outputs", False)
        self.scale = model.model_dim**-0.5 if scaled else 1.0
        self.register_buffer("buckets", _bucket_table(model.encoder), persistent=False)
        self.register_buffer("decoder_buckets", _bucket_table(model.decoder), persistent=False)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        decoder_input_ids: Tensor,
        decoder_attention_mask: Tensor,
    ) -> Tensor:
        """Hidden states [batch, target_length, width].

        Args:
            input_ids, attention_mask: What is read, [batch, length].
            decoder_input_ids, decoder_attention_mask: What is written, moved one to the right,
                [batch, target_length].
        """
        hidden = _hidden(attention_mask)
        read = _encoded(self.model.encoder, self.buckets, input_ids, hidden)
        stack = self.model.decoder
        offsets = _offsets(decoder_input_ids.shape[1])
        later = _MASKED * (offsets > 0).to(torch.float32)
        # The sum of two masks may be minus infinity, which a row with nothing else would make NaN of.
        unseen = torch.clamp(_hidden(decoder_attention_mask) + later, min=_MASKED)
        bias = _position_bias(stack, self.decoder_buckets, offsets) + unseen
        x = stack.embed_tokens(decoder_input_ids)
        for block in stack.block:
            x = block(
                x,
                position_bias=bias,
                encoder_hidden_states=read,
                encoder_decoder_position_bias=hidden,
            )[0]
        found: Tensor = stack.final_layer_norm(x) * self.scale
        return found


def _family(name: str, encoder: type, whole: type) -> Family:
    return Family(
        name=name,
        model_types=(name,),
        targets=("q", "v"),
        forms={
            "text-classification": Form(
                EncoderVectors, model_class=encoder, pooling=Pooling(("mean",))
            ),
            "seq2seq": Form(DecoderVectors, model_class=whole),
        },
        aliases={"query": "q", "key": "k", "value": "v"},
        length_key=None,
    )


T5 = _family("t5", T5EncoderModel, T5ForConditionalGeneration)
MT5 = _family("mt5", MT5EncoderModel, MT5ForConditionalGeneration)
