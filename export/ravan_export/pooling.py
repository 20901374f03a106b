"""Sentence encoders: their declared pooling, and a linear task head on features of fixed scale."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ravan_edge.errors import ModelError

__all__ = ["Dense", "Pooling", "SentenceHead", "SentenceLogits", "pool", "read_pooling"]

_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}
_ORDER = ("cls", "max", "mean")  # in which sentence-transformers puts them one behind the other
_KNOWN_MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
_ACTIVATIONS = {"Identity": False, "Tanh": True}
_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """A frozen linear layer behind the pooling (sentence-t5 has one).

    Args:
        weight: [outputs, inputs].
        bias: [outputs], or None.
        tanh: Whether its output passes tanh.
    """

    weight: Tensor
    bias: Tensor | None = None
    tanh: bool = False

    def applied(self, x: Tensor) -> Tensor:
        """Vectors [batch, outputs] of x [batch, inputs], in the precision of ``x``."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        y = nn.functional.linear(x, self.weight.to(x.dtype), bias)
        return torch.tanh(y) if self.tanh else y


@dataclass(frozen=True, slots=True)
class Pooling:
    """How token vectors become one vector: the named modes, one behind the other.

    Args:
        modes: Of ``cls``, ``max``, ``mean``.
        dense: What the joined vector passes then.
    """

    modes: tuple[str, ...]
    dense: Dense | None = None

    def width(self, hidden: int) -> int:
        """Of the vector, given that of a token's."""
        return hidden * len(self.modes) if self.dense is None else self.dense.weight.shape[0]


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


class _FrozenLinear(nn.Module):
    """A :class:`Dense` as a module: its matrix is then a tensor of the base."""

    def __init__(self, dense: Dense) -> None:
        super().__init__()
        self.weight = nn.Parameter(dense.weight, requires_grad=False)
        self.bias = None if dense.bias is None else nn.Parameter(dense.bias, requires_grad=False)
        self.tanh = dense.tanh

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x, self.weight, self.bias)
        return torch.tanh(y) if self.tanh else y


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
        self.dense = None if pooling.dense is None else _FrozenLinear(pooling.dense)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [batch, labels] of token ids and mask [batch, length]."""
        hidden = self.body(input_ids, attention_mask)
        features = pool(hidden, attention_mask.to(torch.float32), self.pooling)
        if self.dense is not None:
            features = self.dense(features)
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
        ModelError: ``modules.json`` names a module or a pooling that is not known, or an order of
            them that is not.
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
    if kinds != [kind for kind in _KNOWN_MODULES if kind in kinds]:
        raise ModelError(
            f"the order {', '.join(kinds)} is not known",
            where=str(path),
            hint=f"known is {', '.join(_KNOWN_MODULES)}, each at most once",
        )
    pooling = _modes(_module(folder, modules[kinds.index("Pooling")], "1_Pooling") / "config.json")
    if "Dense" not in kinds:
        return pooling
    dense = _dense(_module(folder, modules[kinds.index("Dense")], "2_Dense"))
    return Pooling(pooling.modes, dense)


def _module(folder: Path, module: Mapping[str, object], otherwise: str) -> Path:
    """The folder of one of the modules."""
    name = str(module.get("path", otherwise))
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ModelError(
            f"module path {name!r} leaves the folder", where=str(folder / "modules.json")
        )
    return folder / name


def _dense(folder: Path) -> Dense:
    """A Dense module's matrix, where it is one that is exact here."""
    where = str(folder / "config.json")
    config = _read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise ModelError("expected an object", where=where)
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise ModelError(
            f"a Dense module with the activation {activation!r} is not known",
            where=where,
            hint=f"known are {', '.join(_ACTIVATIONS)}; or export the encoder alone: a folder "
            "without modules.json",
        )
    for key in ("module_input_name", "module_output_name"):
        if config.get(key, "sentence_embedding") not in ("sentence_embedding", None):
            raise ModelError(
                f"a Dense module with {key} {config[key]!r} is not known",
                where=where,
                hint="it must read and replace the sentence embedding",
            )
    path = folder / "model.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot be read: {error}",
            where=str(path),
            hint="the Dense module's weights must be there as safetensors: a pickled file can run "
            "any code when opened and is never loaded",
        ) from error
    shape = (config.get("out_features"), config.get("in_features"))
    weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    if (
        weight is None
        or tuple(weight.shape) != shape
        or (bias is None) == bool(config.get("bias", True))
        or (bias is not None and bias.shape != weight.shape[:1])
    ):
        raise ModelError(
            f"its tensors are not those of a Dense module of {shape[1]} to {shape[0]}",
            where=str(path),
            hint="download the model again",
        )
    return Dense(
        weight.float(), None if bias is None else bias.float(), tanh=_ACTIVATIONS[activation]
    )


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
