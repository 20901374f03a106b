"""Small image models with random weights, and drawn images that can be learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from tests.export.conftest import LABELS, save

__all__ = ["COLOURS", "SIZE", "draw_patches", "save_vit"]

SIZE = 16
_SIZES: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "image_size": SIZE, "patch_size": 4,
}  # fmt: skip
_MODELS: dict[str, tuple[type, type, int]] = {
    "vit": (ViTForImageClassification, ViTConfig, LABELS),
    "vit-of-7": (ViTForImageClassification, ViTConfig, 7),
    "vit-bare": (ViTModel, ViTConfig, LABELS),
    "deit": (DeiTForImageClassification, DeiTConfig, LABELS),
    "deit-distilled": (DeiTForImageClassificationWithTeacher, DeiTConfig, LABELS),
}
COLOURS = {"blue": (40, 60, 220), "green": (50, 200, 60), "red": (220, 50, 40)}


def save_vit(kind: str, folder: Path, **processor: Any) -> None:
    """A model of ``_MODELS`` with its image processor's file."""
    model, config, labels = _MODELS[kind]
    save(model(config(num_labels=labels, **_SIZES)), folder)
    family = "DeiT" if kind.startswith("deit") else "ViT"
    size = {"height": SIZE, "width": SIZE}
    document = {"image_processor_type": f"{family}ImageProcessor", "size": size} | processor
    if family == "DeiT":
        document = {"crop_size": size} | document
    (folder / "preprocessor_config.json").write_text(json.dumps(document))


def draw_patches(folder: Path, images: int, seed: int = 0) -> Path:
    """Images of any size with a patch of their class's colour in noise, one sub-folder each."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(images):
            height, width = rng.integers(12, 40, 2)
            pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
            top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
            pixels[top : top + height // 2, left : left + width // 2] = colour
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return folder
