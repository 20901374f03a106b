"""Image bytes -> uint8 pixels of the model's size, as Hugging Face's image processors make them.

The only module that needs Pillow (the extra ``images``): import it where an image is read. What is
equal, bit for bit: ``transformers.image_utils.load_image`` (upright by its EXIF orientation, then
RGB), then resizing and cutting by the image processors that compute with Pillow.

Only the formats of ``FORMATS`` are tried: some of Pillow's others start programs.
"""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError, features

from ravan_edge.artifact.manifest import ImageSettings
from ravan_edge.errors import ArtifactError, DataError

__all__ = ["FORMATS", "MAX_PIXELS", "decode_image", "decoder_versions"]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 1 << 26
"""Of an image, and of what it is resized to before it is cut: 200 MB as RGB."""

_MODES = {1: "L", 3: "RGB"}
_ANIMATED = frozenset({"GIF", "PNG", "WEBP", "TIFF"})
"""Formats whose further frames are an animation or pages; a phone's JPEG may carry a preview."""

_SMALLER = "save it smaller: it is made as small as the model's images anyway"


def decoder_versions() -> dict[str, str | None]:
    """What decoded pixels depend on."""
    codecs = ("pil", "libjpeg_turbo", "webp", "libtiff")
    return {name: features.version(name) for name in codecs}


def decode_image(content: bytes, settings: ImageSettings, where: str) -> NDArray[np.uint8]:
    """One image as uint8 [channels, height, width].

    Args:
        content: The file's bytes.
        settings: The artifact's.
        where: File or row, for messages.

    Raises:
        DataError: It is no image, damaged, animated, or too large.
        ArtifactError: The artifact's images have channels that are not known here, or are too large.
    """
    mode = _MODES.get(settings.channels)
    if mode is None:
        raise ArtifactError(
            f"images of {settings.channels} channels cannot be read; known are 1 and 3",
            where="image.channels",
            hint="upgrade ravan-edge: pip install --upgrade ravan-edge",
        )
    if settings.height * settings.width > MAX_PIXELS:
        raise ArtifactError(
            f"images of {settings.width} x {settings.height} pixels, expected at most {MAX_PIXELS}",
            where="image",
            hint="export the artifact again, from a model for smaller images",
        )
    if not content:
        raise DataError("the image is empty", where=where, hint="save it again, or remove it")
    try:
        with warnings.catch_warnings():
            # About sizes (bounded here) and odd palettes; others go on with such an image too.
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(content), formats=FORMATS) as image:
                _check(image, where)
                pixels = ImageOps.exif_transpose(image).convert(mode)
            return _sized(pixels, settings, where)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(
            "is no image that can be read",
            where=where,
            hint=f"save it as one of {', '.join(FORMATS)}, or remove it",
        ) from None
    except Image.DecompressionBombError:
        raise _too_large("the image has too many pixels", where) from None
    except Exception as error:  # whatever a decoder raises about damaged bytes
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise DataError(
            f"the image is damaged: {reason}", where=where, hint="copy or save it again"
        ) from error


def _check(image: Image.Image, where: str) -> None:
    """Refuse what would take too much memory, or is several images, before anything is decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(f"the image has {image.width} x {image.height} pixels", where)
    frames = getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
    if frames > 1:
        raise DataError(
            f"the image has {frames} frames", where=where, hint="save the one you mean by itself"
        )


def _too_large(found: str, where: str) -> DataError:
    return DataError(f"{found}, expected at most {MAX_PIXELS}", where=where, hint=_SMALLER)


def _sized(image: Image.Image, settings: ImageSettings, where: str) -> NDArray[np.uint8]:
    """Resized and cut, uint8 [channels, height, width]."""
    width, height = image.size
    if len(settings.resize) == 2:
        height, width = settings.resize
    elif settings.resize:
        # The longer edge is rounded down, as transformers does.
        (edge,) = settings.resize
        if width <= height:
            height, width = int(edge * height / width), edge
        else:
            height, width = edge, int(edge * width / height)
    if height * width > MAX_PIXELS:
        raise _too_large(f"the image would be resized to {width} x {height} pixels", where)
    if settings.resize:
        image = image.resize((width, height), Image.Resampling[settings.resample.upper()])
    pixels = np.asarray(image).reshape(height, width, settings.channels)
    rows, above = _middle(height, settings.height)
    columns, left = _middle(width, settings.width)
    found = np.zeros((settings.channels, settings.height, settings.width), np.uint8)
    found[:, above, left] = pixels[rows, columns].transpose(2, 0, 1)
    return found


def _middle(size: int, wanted: int) -> tuple[slice, slice]:
    """What of an axis is kept, and where it lies in the result; a short one lies between zeros."""
    if size >= wanted:
        begin = (size - wanted) // 2
        return slice(begin, begin + wanted), slice(0, wanted)
    before = (wanted - size + 1) // 2
    return slice(0, size), slice(before, before + size)
