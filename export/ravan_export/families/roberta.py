"""RoBERTa and XLM-RoBERTa: BERT whose positions start behind the padding's own."""

from ravan_export.families.encoder import encoder_forms
from ravan_export.families.family import Family

__all__ = ["ROBERTA"]

ROBERTA = Family(
    name="roberta",
    model_types=("roberta", "xlm-roberta"),
    targets=("query", "value"),
    forms=encoder_forms(token_types=True),
    position_offset=2,
)
