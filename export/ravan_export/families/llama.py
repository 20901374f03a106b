"""LLaMA and models of its shape: SmolLM, TinyLlama (all ``llama``), Mistral with its window."""

from ravan_export.families.decoder import CAUSAL, QUERY_KEY_VALUE
from ravan_export.families.family import Family

__all__ = ["LLAMA"]

LLAMA = Family(
    name="llama",
    model_types=("llama", "mistral"),
    targets=("q_proj", "v_proj"),
    forms=CAUSAL,
    aliases=QUERY_KEY_VALUE,
)
