"""What tasks that read text share: tracing inputs, conformance batches, the manifest's text object."""

from __future__ import annotations

import json
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
    "text_notices",
    "text_settings",
]

TEXT_DIMS = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")}
TEXT_INPUTS = tuple(TEXT_DIMS)
_SHORTER = 4
_NO_LIMIT = 512
"""What T5 was trained with, and what is read where nobody names a length."""
_SHORTEST_LIMIT, _LONGEST_LIMIT = 8, 1 << 16


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
        ModelError: The configuration does not say how long a text may be, or which token pads it
            where positions depend on that.
    """
    config, family = checkpoint.config, checkpoint.family
    if family.position_offset and config.pad_token_id is None:
        raise ModelError(
            f"no pad_token_id, which {family.name} counts its positions from",
            where=str(checkpoint.folder / "config.json"),
            hint="add it: the id of the tokenizer's padding token (1 for most of these models)",
        )
    if family.length_key is None:
        most, _ = _usual_length(checkpoint)
    else:
        found = getattr(config, family.length_key, None)
        if not isinstance(found, int) or found <= family.position_offset:
            raise ModelError(
                f"{family.length_key} is {found!r}, expected the most tokens of a text",
                where=str(checkpoint.folder / "config.json"),
                hint="config.json is not complete: download the model again",
            )
        most = found - family.position_offset
    keys: dict[str, Any] = {
        "tokenizer": TOKENIZER_FILE,
        "max_length": most,
        "pad_id": int(config.pad_token_id or 0),
        "inputs": TEXT_INPUTS,
    }
    return TextSettings(**(keys | more))


def text_notices(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What a person should know of how texts are read: choices that are not the model's."""
    name, notices = checkpoint.family.name, []
    if checkpoint.family.length_key is None:
        most, chosen_by = _usual_length(checkpoint)
        notices.append(
            f"{name} takes texts of any length; at most {most} tokens are read ({chosen_by})"
        )
    if checkpoint.config.pad_token_id is None:
        notices.append(
            "config.json names no padding token: token 0 stands for it, and the mask hides it"
        )
    return tuple(notices)


def _usual_length(checkpoint: Checkpoint) -> tuple[int, str]:
    """The most tokens of a text for a model that has no limit, and who says so."""
    try:
        document = json.loads((checkpoint.folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        document = None
    found = document.get("model_max_length") if isinstance(document, dict) else None
    # Without a limit of its own a tokenizer says 10^30.
    if isinstance(found, int) and _SHORTEST_LIMIT <= found <= _LONGEST_LIMIT:
        return found, "model_max_length of tokenizer_config.json"
    return _NO_LIMIT, "tokenizer_config.json names no model_max_length"


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
