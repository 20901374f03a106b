"""Qwen2 and Qwen2.5 (biases on query, key and value), Qwen3 (norms of query and key)."""

from ravan_export.families.decoder import CAUSAL, QUERY_KEY_VALUE
from ravan_export.families.family import Family

__all__ = ["QWEN"]

QWEN = Family(
    name="qwen",
    model_types=("qwen2", "qwen3"),
    targets=("q_proj", "v_proj"),
    forms=CAUSAL,
    aliases=QUERY_KEY_VALUE,
)
