"""Small decoders with random weights: what each family has of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from tests.export.conftest import save

__all__ = ["MODELS", "QUICK", "SIZES", "WORDS", "save_decoder"]

WORDS = 60
SIZES: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 24, "max_position_embeddings": 64,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
# What each has of its own. Windows are shorter than the texts.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": True, "pad_token_id": 0}),
    "llama-untied": ("llama", {"tie_word_embeddings": False, "rope_parameters": LLAMA3}),
    "mistral": ("mistral", {"sliding_window": 4, "attention_dropout": 0.1}),
    "qwen2": ("qwen2", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1,
                        "eos_token_id": [7, 8]}),
    "qwen3": ("qwen3", {"tie_word_embeddings": True, "rope_parameters": YARN}),
    "gemma": ("gemma", {"num_key_value_heads": 1}),
    "gemma2": ("gemma2", {"sliding_window": 4, "final_logit_softcapping": 12.0,
                          "attn_logit_softcapping": 20.0, "query_pre_attn_scalar": 9}),
    "gemma3": ("gemma3_text", {"sliding_window": 4,
                               "layer_types": ["sliding_attention", "full_attention"]}),
}  # fmt: skip
QUICK = ("llama", "gemma2")


def save_decoder(name: str, folder: Path, **changes: Any) -> None:
    kind, own = MODELS[name]
    config = AutoConfig.for_model(kind, **(SIZES | own | changes))
    save(AutoModelForCausalLM.from_config(config), folder)
