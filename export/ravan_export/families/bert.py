"""BERT, and what was distilled into its shape (MiniLM, most sentence encoders)."""

from typing import Any

from torch import Tensor

from ravan_export.families.encoder import encoder_forms
from ravan_export.families.family import Family

__all__ = ["BERT"]


def _transform(model: Any, hidden: Tensor) -> Tensor:  # noqa: ANN401
    found: Tensor = model.cls.predictions.transform(hidden)
    return found


BERT = Family(
    name="bert",
    model_types=("bert",),
    targets=("query", "value"),
    forms=encoder_forms(_transform, token_types=True),
)
