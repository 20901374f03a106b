"""Pixels of images: equal to Hugging Face's bit for bit; damaged and hostile ones are refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from transformers.image_utils import load_image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from ravan_edge.artifact.manifest import ImageSettings
from ravan_edge.data.image_decode import decode_image
from ravan_edge.data.images import ImageDataset, ImageRows
from ravan_edge.errors import ArtifactError, DataError
from tests.data.image_files import MEAN, STD, noise, saved, settings

FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")


def variants(width: int, height: int) -> dict[str, bytes]:
    """One picture in every form that people's files have."""
    rgb = noise(width, height)
    exif = Image.Exif()
    exif[0x112] = 6
    deep = np.random.default_rng(1).integers(0, 65536, (height, width)).astype(np.uint16)
    palette = rgb.quantize(16)
    return {
        "png": saved(rgb),
        "jpeg": saved(rgb, "JPEG"),
        "webp": saved(rgb, "WEBP"),
        "bmp": saved(rgb, "BMP"),
        "tiff": saved(rgb, "TIFF"),
        "gif": saved(palette, "GIF"),
        "grey": saved(rgb.convert("L")),
        "grey with alpha": saved(rgb.convert("LA")),
        "black and white": saved(rgb.convert("1")),
        "alpha": saved(noise(width, height, 4)),
        "palette": saved(palette),
        "palette with alpha": saved(palette, transparency=bytes([0, 128] * 8)),
        "16 bit": saved(Image.fromarray(deep)),
        "cmyk": saved(rgb.convert("CMYK"), "JPEG"),
        "lying on its side": saved(rgb, "JPEG", exif=exif),
        "with a preview": saved(rgb, "MPO", save_all=True, append_images=[rgb]),
    }


def theirs(content: bytes, wanted: ImageSettings) -> NDArray[np.float32]:
    """What transformers makes of it, with the processor that computes with Pillow."""
    options: dict[str, Any] = {
        "do_resize": bool(wanted.resize),
        "resample": FILTERS.index(wanted.resample),
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
    if len(wanted.resize) == 2:
        options["size"] = dict(zip(("height", "width"), wanted.resize, strict=True))
    elif wanted.resize:
        options["size"] = {"shortest_edge": wanted.resize[0]}
    if wanted.resize != (wanted.height, wanted.width):
        cut = {"height": wanted.height, "width": wanted.width}
        options |= {"do_center_crop": True, "crop_size": cut}
    image = load_image(Image.open(io.BytesIO(content)))
    found: NDArray[np.float32] = ViTImageProcessorPil(**options)(image, return_tensors="np")[
        "pixel_values"
    ]
    return found


def rows_of(*pixels: NDArray[np.uint8], wanted: ImageSettings) -> ImageRows:
    return ImageRows(ImageDataset(np.stack(pixels), np.zeros(len(pixels), np.int32)), wanted)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("size", [(16, 16), (5, 9), (37, 23), (16, 40)])
def test_pixels_are_bit_for_bit_those_of_transformers(size: tuple[int, int]) -> None:
    ways = (
        settings(16, 16),
        settings(20, 18, resample="bicubic"),
        settings(18, resample="nearest"),
        settings(12, resample="lanczos"),
        settings(9, 30, resample="box"),
        settings(resample="hamming"),
    )
    for kind, content in variants(*size).items():
        for wanted in ways:
            mine = rows_of(decode_image(content, wanted, kind), wanted=wanted)
            found = mine.batch(np.array([0])).inputs["pixel_values"]
            expected = theirs(content, wanted)
            assert found.dtype == expected.dtype == np.float32
            assert np.array_equal(found, expected), (kind, wanted.resize)


def test_a_batch_has_the_rows_asked_for_and_counts_the_models_tokens() -> None:
    wanted = settings(16, 16)
    decoded = [decode_image(saved(noise(16, 16, seed=n)), wanted, "x") for n in range(4)]
    rows = rows_of(*decoded, wanted=wanted)
    batch = rows.batch(np.array([3, 1]))
    assert batch.inputs["pixel_values"].shape == (2, 3, 16, 16)
    assert (batch.rows, batch.tokens) == (2, 10)
    assert rows.lengths.tolist() == [5] * 4
    alone = rows.batch(np.array([1])).inputs["pixel_values"]
    assert np.array_equal(batch.inputs["pixel_values"][1:], alone)


def bomb(width: int, height: int) -> bytes:
    """A png that says it has so many pixels and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def animation(kind: str) -> bytes:
    frames = [noise(9, 9, seed=seed) for seed in range(3)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"not an image at all", "no image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image that can be read"),
        (b"\xff\xd8\xff" + bytes(99), "no image|damaged"),
        (saved(noise(40, 40))[:900], "damaged"),
        (saved(noise(40, 40), "JPEG")[:600], "damaged"),
        (saved(noise(40, 40), "WEBP")[:300], "damaged|no image"),
        (bomb(9000, 8000), "9000 x 8000 pixels"),
        (bomb(30000, 30000), "too many pixels"),
        (bomb(500, 500), "damaged"),
        (animation("GIF"), "3 frames"),
        (animation("PNG"), "3 frames"),
        (animation("WEBP"), "3 frames"),
        (animation("TIFF"), "3 frames"),
    ],
)
def test_a_bad_image_is_refused_with_its_name(content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        decode_image(content, settings(16, 16), "cats/a.png")
    assert caught.value.where == "cats/a.png"
    assert caught.value.hint


def test_a_thin_image_does_not_become_a_huge_one() -> None:
    content = saved(noise(1, 30_000))
    with pytest.raises(DataError, match="would be resized to 224 x 6720000"):
        decode_image(content, settings(224, size=224), "thin.png")


def test_channels_that_are_not_known_are_refused() -> None:
    wanted = settings(16, 16).model_copy(update={"channels": 2})
    with pytest.raises(ArtifactError, match="2 channels"):
        decode_image(saved(noise(9, 9)), wanted, "x")


def test_an_artifact_cannot_ask_for_huge_images() -> None:
    wanted = settings(16, 16).model_copy(update={"height": 1 << 40, "width": 1 << 40})
    with pytest.raises(ArtifactError, match="pixels, expected at most"):
        decode_image(saved(noise(9, 9)), wanted, "x")


def test_a_model_for_grey_images_gets_one_channel() -> None:
    wanted = settings(16, 16).model_copy(update={"channels": 1, "mean": (0.5,), "std": (0.5,)})
    content = saved(noise(20, 20))
    found = decode_image(content, wanted, "x")
    grey = Image.open(io.BytesIO(content)).convert("L").resize((16, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(found[0], np.asarray(grey))
