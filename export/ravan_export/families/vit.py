"""ViT: an image cut into patches, each a token behind one for the class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ravan_export.families.family import Family, Form

__all__ = ["VIT", "ImageLogits"]


class ImageLogits(nn.Module):
    """``forward(pixel_values)`` around an unchanged Hugging Face image classifier.

    Position embeddings are never interpolated: images have the model's own size. The model is handed
    a mask of one 0, which adds nothing: while it is captured it would make one of its own, of zeros
    too, and add it in each layer.

    Args:
        model: A classifier that returns ``.logits``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits [batch, labels] of images [batch, channels, height, width]."""
        nothing = torch.zeros(1, 1, 1, 1)
        logits: Tensor = self.model(pixel_values=pixel_values, attention_mask=nothing).logits
        return logits


VIT = Family(
    name="vit",
    model_types=("vit",),
    targets=("q_proj", "v_proj"),
    forms={"image-classification": Form(ImageLogits)},
    aliases={"query": "q_proj", "key": "k_proj", "value": "v_proj"},
)
