"""DeiT: ViT with a second token, which its distilled form classifies as well.

A distilled classifier (``...WithTeacher``) answers with the mean of its two heads; both train, and
the loss is that mean's.
"""

from ravan_export.families.family import Family, Form
from ravan_export.families.vit import ImageLogits

__all__ = ["DEIT"]

DEIT = Family(
    name="deit",
    model_types=("deit",),
    targets=("q_proj", "v_proj"),
    forms={"image-classification": Form(ImageLogits)},
    aliases={"query": "q_proj", "key": "k_proj", "value": "v_proj"},
)
