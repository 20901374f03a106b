"""DistilBERT: no token types, other layer names."""

from typing import Any

from torch import Tensor

from ravan_export.families.encoder import encoder_forms
from ravan_export.families.family import Family

__all__ = ["DISTILBERT"]


def _transform(model: Any, hidden: Tensor) -> Tensor:  # noqa: ANN401
    found: Tensor = model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
    return found


DISTILBERT = Family(
    name="distilbert",
    model_types=("distilbert",),
    targets=("q_lin", "v_lin"),
    forms=encoder_forms(_transform),
    aliases={"query": "q_lin", "key": "k_lin", "value": "v_lin"},
)
