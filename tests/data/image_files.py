"""Made-up images and how they are read, for tests."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from ravan_edge.artifact.manifest import ImageSettings

__all__ = ["MEAN", "STD", "noise", "saved", "settings"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def settings(*resize: int, resample: str = "bilinear", size: int = 16) -> ImageSettings:
    return ImageSettings(
        height=size, width=size, channels=3, resize=resize, resample=resample,  # type: ignore[arg-type]
        rescale=1 / 255, mean=MEAN, std=STD, tokens=5,
    )  # fmt: skip


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, channels)).astype(np.uint8))
