"""RoBERTa and XLM-RoBERTa: BERT whose positions start behind the padding's own."""

from typing import Any

from torch import Tensor
from torch.nn import functional

from ravan_export.families.encoder import encoder_forms
from ravan_export.families.family import Family

__all__ = ["ROBERTA"]


def _transform(model: Any, hidden: Tensor) -> Tensor:  # noqa: ANN401
    head = model.lm_head
    found: Tensor = head.layer_norm(functional.gelu(head.dense(hidden)))
    return found


ROBERTA = Family(
    name="roberta",
    model_types=("roberta", "xlm-roberta"),
    targets=("query", "value"),
    forms=encoder_forms(_transform, token_types=True),
    position_offset=2,
)
