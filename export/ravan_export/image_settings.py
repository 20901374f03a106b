"""How images become ``pixel_values``: a checkpoint's ``preprocessor_config.json`` -> the manifest.

Only what the manifest can say exactly gets through; any other key is refused by its name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ravan_edge.artifact.manifest import ImageSettings
from ravan_edge.errors import ModelError
from ravan_export.source import Checkpoint

__all__ = ["PROCESSORS", "image_settings", "model_size"]

_FILE = "preprocessor_config.json"
_COMBINED_FILE = "processor_config.json"
_MOST_BYTES = 1 << 20
_MOST_EDGE = 1 << 14

PROCESSORS: Mapping[str, Mapping[str, Any]] = {
    "ViTImageProcessor": {
        "size": {"height": 224, "width": 224},
        "resample": 2,
        "do_center_crop": False,
        "crop_size": None,
    },
    "DeiTImageProcessor": {
        "size": {"height": 256, "width": 256},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
    },
}
"""What transformers uses for a key that a file leaves out, by the processor it names."""

_ALWAYS: Mapping[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By Pillow's number."""

# Change nothing: how arrays are handed over, where they are computed. Images are always made RGB.
_WITHOUT_MEANING = frozenset(
    {
        "image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb",
        "_valid_processor_keys", "input_data_format", "device", "return_tensors",
        "disable_grouping", "default_to_square",
    }
)  # fmt: skip


def image_settings(checkpoint: Checkpoint) -> ImageSettings:
    """The manifest's ``image``, but for the number of tokens, which the loaded model says.

    Args:
        checkpoint: An opened folder.

    Raises:
        ModelError: The file is missing or refused, or does not fit the model; names the key.
    """
    path, document = _document(checkpoint.folder)
    where = str(path)
    default = "DeiTImageProcessor" if checkpoint.family.name == "deit" else "ViTImageProcessor"
    keys = _Keys(document, {**_ALWAYS, **PROCESSORS[_processor(document, default, where)]}, where)
    keys.refuse_unknown()
    height, width = model_size(checkpoint)
    channels = int(getattr(checkpoint.config, "num_channels", 3))
    if channels not in {1, 3}:
        raise ModelError(
            f"num_channels is {channels}, expected 3 (RGB) or 1 (grey)",
            where=str(checkpoint.folder / "config.json"),
            hint="take a model for RGB images",
        )
    resize = keys.resize()
    cut = keys.crop()
    if cut is None and len(resize) == 1:
        raise keys.refuse("size", "the shorter edge alone gives images of different sizes")
    if cut is None and resize and resize != (height, width):
        raise keys.refuse("size", f"{list(resize)}, but the model takes {height} x {width}")
    if cut is not None and cut != (height, width):
        raise keys.refuse("crop_size", f"{list(cut)}, but the model takes {height} x {width}")
    normalise = keys.flag("do_normalize")
    return ImageSettings(
        height=height,
        width=width,
        channels=channels,
        resize=resize,
        resample=keys.resample(),  # type: ignore[arg-type]  # one of _RESAMPLE
        rescale=keys.positive("rescale_factor") if keys.flag("do_rescale") else 1.0,
        mean=keys.numbers("image_mean", channels) if normalise else (0.0,) * channels,
        std=keys.numbers("image_std", channels, above_zero=True) if normalise else (1.0,) * channels,
        tokens=1,
    )  # fmt: skip


def model_size(checkpoint: Checkpoint) -> tuple[int, int]:
    """Height and width of the images that the model takes.

    Raises:
        ModelError: The configuration does not say.
    """
    found = getattr(checkpoint.config, "image_size", None)
    edges = [found, found] if isinstance(found, int) else found
    if (
        not isinstance(edges, (list, tuple))
        or len(edges) != 2
        or not all(isinstance(edge, int) and 1 <= edge <= _MOST_EDGE for edge in edges)
    ):
        raise ModelError(
            f"image_size is {found!r}, expected one or two numbers",
            where=str(checkpoint.folder / "config.json"),
            hint="config.json is not complete: download the model again",
        )
    return int(edges[0]), int(edges[1])


def _document(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """The image processor's own file, or its part of a combined one."""
    for name in (_FILE, _COMBINED_FILE):
        path = folder / name
        if not path.exists():
            continue
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise ModelError("is too large for a configuration", where=str(path))
            document: object = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(
                f"cannot be read: {error}", where=str(path), hint="download the model again"
            ) from error
        if isinstance(document, dict) and name == _COMBINED_FILE:
            document = document.get("image_processor")
        if not isinstance(document, dict):
            raise ModelError("expected an object", where=str(path), hint="download the model again")
        return path, document
    raise ModelError(
        f"there is no {_FILE}, so nothing says how images are resized and normalised",
        where=str(folder),
        hint="download it with the model; or write it: transformers' "
        "ViTImageProcessor(size=..., image_mean=..., image_std=...).save_pretrained(folder), with "
        "the values the model was trained with",
    )


def _processor(document: Mapping[str, Any], default: str, where: str) -> str:
    if "auto_map" in document:
        raise ModelError(
            "auto_map: the image processor needs code of its own, which is never run",
            where=where,
            hint="remove the key if transformers' own processor does the same",
        )
    found = document.get("image_processor_type") or document.get("feature_extractor_type")
    if found is None:
        return default
    name = str(found).replace("FeatureExtractor", "ImageProcessor")
    name = name.removesuffix("Fast").removesuffix("Pil")
    if name not in PROCESSORS:
        raise ModelError(
            f"image_processor_type: {str(found)[:100]!r} is not known",
            where=where,
            hint=f"known are {', '.join(PROCESSORS)} and their Fast forms",
        )
    return name


class _Keys:
    """The file's keys, with what stands for those it leaves out."""

    def __init__(self, document: Mapping[str, Any], usual: Mapping[str, Any], where: str) -> None:
        self._document = document
        self._usual = usual
        self._where = where

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401  (whatever the file has)
        found = self._document.get(key)
        return self._usual[key] if found is None else found

    def refuse(self, key: str, found: str) -> ModelError:
        """The error for one key."""
        return ModelError(
            f"{key}: {found}",
            where=self._where,
            hint="images could not be read exactly so: correct the key, or take another model",
        )

    def refuse_unknown(self) -> None:
        """Refuse keys that would do something which a manifest cannot say."""
        for key, value in self._document.items():
            if key in self._usual or key in _WITHOUT_MEANING or value is None or value is False:
                continue
            if (key, value) == ("data_format", "channels_first"):
                continue
            raise self.refuse(key, f"{str(value)[:80]!r} is not known")

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self[key]
        if not isinstance(value, bool):
            raise self.refuse(key, f"{value!r}, expected true or false")
        return value

    def positive(self, key: str) -> float:
        """A number above 0."""
        value = self[key]
        if not _is_number(value) or value <= 0:
            raise self.refuse(key, f"{value!r}, expected a number above 0")
        return float(value)

    def numbers(self, key: str, count: int, *, above_zero: bool = False) -> tuple[float, ...]:
        """One number for each channel."""
        value = self[key]
        listed = [value] * count if _is_number(value) else value
        good = isinstance(listed, list) and len(listed) == count and all(map(_is_number, listed))
        if not good or (above_zero and min(listed) <= 0):
            positive = " above 0" if above_zero else ""
            raise self.refuse(key, f"{value!r}, expected {count} numbers{positive}")
        return tuple(map(float, listed))

    def resample(self) -> str:
        """The name of Pillow's filter."""
        value = self["resample"]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(_RESAMPLE):
            raise self.refuse("resample", f"{value!r}, expected 0 to {len(_RESAMPLE) - 1}")
        return _RESAMPLE[value]

    def resize(self) -> tuple[int, ...]:
        """Nothing; the shorter edge; or height and width."""
        if not self.flag("do_resize"):
            return ()
        value = self["size"]
        if isinstance(value, dict) and _set(value) == {"shortest_edge"}:
            return (self._edge("size", value["shortest_edge"]),)
        # transformers reads one number as the shorter edge only where this key says so.
        if isinstance(value, int) and self._document.get("default_to_square") is False:
            return (self._edge("size", value),)
        return self._rectangle("size", value)

    def crop(self) -> tuple[int, int] | None:
        """Height and width of what is cut out of the middle; None: nothing is."""
        return (
            self._rectangle("crop_size", self["crop_size"]) if self.flag("do_center_crop") else None
        )

    def _rectangle(self, key: str, value: object) -> tuple[int, int]:
        edges: object = [value, value] if isinstance(value, int) else value
        if isinstance(value, dict) and _set(value) == {"height", "width"}:
            edges = [value["height"], value["width"]]
        if not isinstance(edges, list) or len(edges) != 2:
            raise self.refuse(key, f"{str(value)[:80]}, expected height and width")
        return self._edge(key, edges[0]), self._edge(key, edges[1])

    def _edge(self, key: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_EDGE:
            raise self.refuse(key, f"{value!r}, expected 1 to {_MOST_EDGE}")
        return value


def _set(sizes: Mapping[str, Any]) -> set[str]:
    """The keys of a size that say something."""
    return {key for key, value in sizes.items() if value is not None}


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value)
