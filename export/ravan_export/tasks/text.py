"""What tasks that read text share: tracing inputs, conformance batches, the manifest's text object."""

from __future__ import annotations

from typing import Any

import numpy as np
from optimum.utils import DummyTextInputGenerator, NormalizedTextConfig
from optimum.utils.normalized_config import NormalizedConfigManager
from torch import Tensor

from ravan_edge.artifact.manifest import TextSettings
from ravan_edge.errors import ModelError
from ravan_edge.generator import Purpose, Stream
from ravan_export.source import Checkpoint, Source
from ravan_export.tasks.task import Array
from ravan_export.tokenizer import TOKENIZER_FILE

__all__ = [
    "TEXT_DIMS",
    "TEXT_INPUTS",
    "padded_ids",
    "random_words",
    "text_example",
    "text_settings",
]

TEXT_DIMS = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")}
TEXT_INPUTS = tuple(TEXT_DIMS)
_SHORTER = 4


def text_example(source: Source, optimum_task: str) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask`` [3, 7] from optimum's generator."""
    config = source.config
    try:
        kind = NormalizedConfigManager.get_normalized_config_class(config.model_type)
    except KeyError:
        kind = NormalizedTextConfig  # the names most configurations have
    generator = DummyTextInputGenerator(optimum_task, kind(config), batch_size=3, sequence_length=7)
    return {name: generator.generate(name, framework="pt") for name in TEXT_INPUTS}


def text_settings(checkpoint: Checkpoint, **more: Any) -> TextSettings:  # noqa: ANN401
    """The manifest's ``text``; ``more`` are its keys that only some tasks have, or replacements.

    Raises:
        ModelError: The configuration does not say how long a text may be.
    """
    config, family = checkpoint.config, checkpoint.family
    found = getattr(config, family.length_key, None)
    if not isinstance(found, int) or found <= family.position_offset:
        raise ModelError(
            f"{family.length_key} is {found!r}, expected the most tokens of a text",
            where=str(checkpoint.folder / "config.json"),
            hint="config.json is not complete: download the model again",
        )
    keys: dict[str, Any] = {
        "tokenizer": TOKENIZER_FILE,
        "max_length": found - family.position_offset,
        "pad_id": int(config.pad_token_id or 0),
        "inputs": TEXT_INPUTS,
    }
    return TextSettings(**(keys | more))


def random_words(seed: int, use: int, count: int) -> Array:
    """``count`` random integers of a conformance batch."""
    return Stream(seed, Purpose.CONFORMANCE, index=use).words(count).astype(np.int64)


def padded_ids(
    words: Array, shape: tuple[int, int], vocabulary: int, pad_id: int
) -> tuple[Array, Array]:
    """Token ids and mask [rows, length]; each row is shorter than the one before.

    Args:
        words: rows * length random integers.
        shape: Rows and length.
        vocabulary: How many ids there are.
        pad_id: Stands behind the shorter rows and nowhere else: a token that happens to be it would
            change the positions RoBERTa counts.
    """
    rows, length = shape
    ids = words.reshape(shape) % vocabulary
    ids[ids == pad_id] = (pad_id + 1) % vocabulary
    mask = np.ones(shape, np.int64)
    for row in range(1, rows):
        mask[row, max(1, length - _SHORTER * row) :] = 0
    ids[mask == 0] = pad_id
    return ids, mask
