"""Sentence encoders: their declared pooling, and a linear task head on features of fixed scale."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ravan_edge.errors import ModelError

__all__ = ["Pooling", "SentenceHead", "SentenceLogits", "pool", "read_pooling"]

_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}
_ORDER = ("cls", "max", "mean")  # in which sentence-transformers puts them one behind the other
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Pooling:
    """How token vectors become one vector: the named modes, one behind the other."""

    modes: tuple[str, ...]


class SentenceHead(nn.Module):
    """logits = W f + b on f = sqrt(d) x / ||x||, so that f's root mean square is 1.

    Pretrained sentence vectors have any length; on a fixed scale one learning rate serves all. W and
    b start at 0: every label is equally likely, and no random number is needed.
    """

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(labels, width))
        self.bias = nn.Parameter(torch.zeros(labels))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, labels] of sentence vectors [batch, width]."""
        # Bounded inside the root: a row of padding alone is 0, where the root has no derivative.
        norm = torch.sqrt((x * x).sum(1, keepdim=True).clamp(min=1e-24))
        return nn.functional.linear(x / norm * self.weight.shape[1] ** 0.5, self.weight, self.bias)


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Sentence vectors [batch, modes * width] of hidden [batch, length, width] under a float mask."""
    parts = []
    wide = mask.unsqueeze(-1)
    for mode in pooling.modes:
        if mode == "cls":
            parts.append(hidden[:, 0])
        elif mode == "mean":
            parts.append((hidden * wide).sum(1) / wide.sum(1).clamp(min=1e-9))
        else:
            parts.append(torch.amax(hidden.masked_fill(wide == 0, -1e9), 1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class SentenceLogits(nn.Module):
    """Token vectors of a family's captured module -> pooled, scaled, through the linear task head.

    Args:
        body: Returns token vectors [batch, length, width] of ``input_ids`` and ``attention_mask``.
        pooling: How they become one vector.
        head: The task head.
    """

    def __init__(self, body: nn.Module, pooling: Pooling, head: SentenceHead) -> None:
        super().__init__()
        self.body = body
        self.pooling = pooling
        self.task_head = head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [batch, labels] of token ids and mask [batch, length]."""
        hidden = self.body(input_ids, attention_mask)
        features = pool(hidden, attention_mask.to(torch.float32), self.pooling)
        logits: Tensor = self.task_head(features)
        return logits


def _read_json(path: Path) -> object:
    try:
        if path.stat().st_size > _CONFIG_BYTES:
            raise ModelError("is too large for a configuration", where=str(path))
        document: object = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot be read: {error}", where=str(path), hint="download the model again"
        ) from error
    return document


def read_pooling(folder: Path) -> Pooling | None:
    """The pooling a sentence-transformers folder declares; None for any other folder.

    Raises:
        ModelError: ``modules.json`` names a module or a pooling that is not known.
    """
    path = folder / "modules.json"
    if not path.exists():
        return None
    modules = _read_json(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelError("expected a list of modules", where=str(path))
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    for kind in kinds:
        if kind not in _KNOWN_MODULES:
            raise ModelError(
                f"module {kind!r} is not known (known: {', '.join(_KNOWN_MODULES)})",
                where=str(path),
                hint="export the encoder alone: a folder without modules.json",
            )
    if "Pooling" not in kinds:
        raise ModelError("declares no Pooling", where=str(path), hint="add one, or remove the file")
    name = str(modules[kinds.index("Pooling")].get("path", "1_Pooling"))
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ModelError(f"module path {name!r} leaves the folder", where=str(path))
    return _modes(folder / name / "config.json")


def _modes(path: Path) -> Pooling:
    config = _read_json(path)
    if not isinstance(config, dict):
        raise ModelError("expected an object", where=str(path))
    named = config.get("pooling_mode")  # newer releases name the modes in one string or list
    if isinstance(named, str):
        named = [named]
    if isinstance(named, list):
        found = [str(mode) for mode in named]
    else:
        flags = [
            key for key, on in config.items() if key.startswith("pooling_mode_") and on is True
        ]
        found = [_MODES.get(key, key) for key in flags]
    unknown = [mode for mode in found if mode not in _MODES.values()]
    if unknown or not found:
        raise ModelError(
            f"pooling {unknown[0] if unknown else 'of no kind'!r} is not known",
            where=str(path),
            hint=f"known are {', '.join(_MODES.values())}",
        )
    return Pooling(tuple(mode for mode in _ORDER if mode in found))
