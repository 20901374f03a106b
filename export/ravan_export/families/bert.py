"""BERT, and what was distilled into its shape (MiniLM, most sentence encoders)."""

from ravan_export.families.encoder import encoder_forms
from ravan_export.families.family import Family

__all__ = ["BERT"]

BERT = Family(
    name="bert",
    model_types=("bert",),
    targets=("query", "value"),
    forms=encoder_forms(token_types=True),
)
