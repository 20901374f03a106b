"""Gemma: embeddings scaled by the root of the width, norms by 1 + w; 2 and 3 have windows, 2 soft caps."""

from ravan_export.families.decoder import CAUSAL, QUERY_KEY_VALUE
from ravan_export.families.family import Family

__all__ = ["GEMMA"]

GEMMA = Family(
    name="gemma",
    model_types=("gemma", "gemma2", "gemma3_text"),
    targets=("q_proj", "v_proj"),
    forms=CAUSAL,
    aliases=QUERY_KEY_VALUE,
)
