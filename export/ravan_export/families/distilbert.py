"""DistilBERT: no token types, other layer names."""

from ravan_export.families.encoder import encoder_forms
from ravan_export.families.family import Family

__all__ = ["DISTILBERT"]

DISTILBERT = Family(
    name="distilbert",
    model_types=("distilbert",),
    targets=("q_lin", "v_lin"),
    forms=encoder_forms(),
    aliases={"query": "q_lin", "key": "k_lin", "value": "v_lin"},
)
