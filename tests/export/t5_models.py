"""Small T5 models with random weights: v1.0 (ReLU, tied), v1.1 (gated, not tied), mT5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    AutoConfig,
    MT5ForConditionalGeneration,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from tests.export.conftest import save

__all__ = ["KINDS", "VOCABULARY", "save_sentence_t5", "save_t5", "save_tokenizer", "t5_model"]

VOCABULARY = 60
WIDTH = 16
KINDS = ("t5", "t5-gated", "mt5")


def t5_model(kind: str, **changes: Any) -> Any:
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": 6, "d_ff": 24, "num_heads": 2,
        "num_layers": 2, "num_decoder_layers": 2, "decoder_start_token_id": 0,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12,
    }  # fmt: skip
    if kind == "mt5":
        model = MT5ForConditionalGeneration(AutoConfig.for_model("mt5", **(sizes | changes)))
    else:
        gated = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
        sizes |= gated if kind == "t5-gated" else {}
        model = T5ForConditionalGeneration(AutoConfig.for_model("t5", **(sizes | changes)))
    if kind != "t5":  # transformers ties them as long as they are equal
        model.lm_head.weight = nn.Parameter(torch.zeros_like(model.lm_head.weight))
    return model


def save_t5(folder: Path, kind: str = "t5", **changes: Any) -> None:
    model = t5_model(kind, **changes)
    save(model, folder)
    # Attention is not scaled: T5's own initial queries are smaller instead, and its embeddings larger.
    with torch.no_grad():
        model.shared.weight.mul_(WIDTH**0.5)
        for name, parameter in model.named_parameters():
            if name.endswith(".q.weight"):
                parameter.mul_(model.config.d_kv**-0.5)
    model.save_pretrained(folder)
    # What the hub's files say: nothing (v1.0), or that the vocabulary matrix is not tied.
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name in ("scale_decoder_outputs", "tie_word_embeddings"):
        config.pop(name, None)
    if kind != "t5":
        config["tie_word_embeddings"] = False
    path.write_text(json.dumps(config))
    save_tokenizer(folder / "tokenizer.json")


def save_tokenizer(path: Path) -> None:
    """A Unigram tokenizer of letters that ends a text with </s>, as T5's does."""
    signs = ["<pad>", "</s>", "<unk>", "\N{LOWER ONE EIGHTH BLOCK}", *"abcdefghijklmnopqrstuvwxyz"]
    pieces = [(sign, 0.0 if index < 3 else -3.0) for index, sign in enumerate(signs)]
    pieces += [("an", -3.5), ("the", -4.0), ("\N{LOWER ONE EIGHTH BLOCK}a", -4.0)]
    made = Tokenizer(models.Unigram(pieces, unk_id=2))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    made.save(str(path))


def save_sentence_t5(folder: Path, **config: Any) -> None:
    """As sentence-transformers saves sentence-t5: mean pooling, a Dense module, normalising."""
    model = T5EncoderModel(t5_model("t5").config)
    save(model, folder)
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    paths = ("", "1_Pooling", "2_Dense", "3_Normalize")
    modules = [
        {"idx": index, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for name in paths[1:3]:
        (folder / name).mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    settings = {
        "in_features": WIDTH,
        "out_features": 10,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    } | config
    (folder / "2_Dense" / "config.json").write_text(json.dumps(settings))
    generator = torch.Generator().manual_seed(8)
    tensors = {"linear.weight": torch.randn(10, WIDTH, generator=generator)}
    if settings["bias"]:
        tensors["linear.bias"] = torch.randn(10, generator=generator)
    save_file(tensors, folder / "2_Dense" / "model.safetensors")
