"""Pretrained models: found, checked, loaded without running anybody's code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from optimum.exporters.tasks import TasksManager
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig
from transformers import logging as transformers_logging

from ravan_edge.artifact.manifest import ModelInfo
from ravan_edge.errors import ModelError
from ravan_edge.generator import Purpose, Stream
from ravan_export.families import FAMILIES, EncoderLogits, Family
from ravan_export.pooling import Pooling, SentenceHead, read_pooling

__all__ = ["Source", "load", "resolve"]

_CLASSIFIER = "ForSequenceClassification"
_HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "README.md")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model.pt", "model.pt")
_INIT_SPREAD = 0.02
"""The standard deviation with which Hugging Face fills a new classifier."""


@dataclass(frozen=True, slots=True)
class Source:
    """A loaded model.

    Args:
        folder: Its files.
        info: For the manifest.
        family: Its family.
        model: The Hugging Face model, in eval mode, float32, attention written out.
        config: Its configuration.
        logits: The function that is captured; holds ``model`` and, for a bare encoder, a task head.
        task_modules: Modules of ``model`` that are its own task head.
        task_head: Trained parameters: name in the tensor table -> (dotted name in ``logits``,
            initial value).
        pooling: Of a bare encoder.
        pad_id: The padding token.
        max_length: Most tokens of a text.
        notices: What a person should know.
    """

    folder: Path
    info: ModelInfo
    family: Family
    model: nn.Module
    config: PreTrainedConfig
    logits: EncoderLogits
    task_modules: tuple[str, ...]
    task_head: Mapping[str, tuple[str, NDArray[np.float32]]]
    pooling: Pooling | None
    pad_id: int
    max_length: int
    notices: tuple[str, ...]


def resolve(model: str) -> tuple[Path, str]:
    """The folder of a model and its name: a local folder, or a hub id that is fetched.

    Raises:
        ModelError: There is no such folder, and the hub does not have it or cannot be reached.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder, folder.resolve().name
    hub_id = re.fullmatch(r"[\w.-]+(?:/[\w.-]+)?", model)
    if folder.exists() or hub_id is None or model.startswith("."):
        raise ModelError("there is no such model folder", where=model, hint="look at the path")
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(model, allow_patterns=list(_HUB_FILES))
    except Exception as error:  # the hub client's errors share no base but Exception
        raise ModelError(
            f"no such folder, and not on the hub: {type(error).__name__}",
            where=model,
            hint="give a local folder, or check the name and the connection",
        ) from error
    return Path(found), model


def _config(folder: Path) -> PreTrainedConfig:
    path = folder / "config.json"
    hint = "MODEL is a folder with config.json and model.safetensors"
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError("there is no config.json", where=str(folder), hint=hint) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot be read: {error}", where=str(path), hint=hint) from error
    if not isinstance(document, dict):
        raise ModelError("expected an object", where=str(path), hint=hint)
    if "auto_map" in document:
        raise ModelError(
            "the model needs code of its own from its repository, which is never run",
            where=str(path),
            hint="convert it to an architecture that transformers has",
        )
    known = sorted(kind for family in FAMILIES for kind in family.model_types)
    if document.get("model_type") not in known:
        raise ModelError(
            f"model type {document.get('model_type')!r} is not known for text-classification",
            where=str(path),
            hint=f"known are {', '.join(known)}; a further family is one file in families/",
        )
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # a wrong type of any field ends up here
        raise ModelError(f"is refused: {error}", where=str(path), hint=hint) from error
    return config


def _check_weights(folder: Path) -> int:
    """Bytes of the weights as stored."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = [name for name in _PICKLES if (folder / name).exists()]
        found = f"only {pickled[0]}" if pickled else "no model.safetensors"
        raise ModelError(
            f"{found}: a pickled checkpoint can run any code when opened and is never loaded"
            if pickled
            else found,
            where=str(folder),
            hint="convert it: load it where you trust it, then save_pretrained(safe_serialization=True)"
            if pickled
            else "download the model again",
        )
    return sum(path.stat().st_size for path in files)


def _license(folder: Path) -> str | None:
    """The licence of the model card's header."""
    try:
        text = (folder / "README.md").read_text("utf-8", errors="replace")[:65536]
    except OSError:
        return None
    header = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    line = re.search(r"^license:\s*['\"]?([\w.+-]+)", header[1], re.MULTILINE) if header else None
    return line[1] if line else None


def _load(folder: Path, config: PreTrainedConfig, task: str) -> tuple[nn.Module, set[str]]:
    """The model in eval mode, and the names of parameters the checkpoint does not have."""
    model_class = TasksManager.get_model_class_for_task(task, framework="pt")
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, report = model_class.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # whatever a broken file raises
        first = str(error).strip().splitlines()
        raise ModelError(
            f"cannot be loaded: {type(error).__name__}: {first[0] if first else ''}",
            where=str(folder),
            hint="download the model again; config and weights must belong together",
        ) from error
    finally:
        transformers_logging.set_verbosity(before)
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=False)
    return model.eval(), {str(name) for name in report["missing_keys"]}


def load(folder: Path, name: str, labels: Sequence[str], seed: int) -> Source:
    """Load a text classifier or a sentence encoder.

    Args:
        folder: From :func:`resolve`.
        name: As the manifest says it.
        labels: The label map.
        seed: Of parameters that a checkpoint without classifier does not have.

    Raises:
        ModelError: It cannot be loaded safely, or does not fit the task.
    """
    config = _config(folder)
    stored = _check_weights(folder)
    family = next(item for item in FAMILIES if config.model_type in item.model_types)
    pooling = read_pooling(folder)
    architectures = config.architectures or [""]
    classifies = str(architectures[0]).endswith(_CLASSIFIER)
    if pooling is None:
        _check_labels(config, labels, folder, classifies=classifies)
        config.num_labels = len(labels)
    task = "text-classification" if pooling is None else "feature-extraction"
    model, missing = _load(folder, config, task)
    notices: tuple[str, ...] = ()
    if pooling is None:
        modules, own_head = _own_head(model)
        new = [item for item in own_head.values() if item[0] in missing]
        if new:
            _fill(own_head, missing, seed)
            notices = ("the checkpoint has no classifier: its task head starts at random",)
        _check_complete(missing, modules, folder)
        logits = EncoderLogits(model, family)
        task_head = {key: (full, _array(tensor)) for key, (full, tensor) in own_head.items()}
    else:
        modules = ()
        _check_complete(missing, ("pooler",), folder)
        head = SentenceHead(config.hidden_size * len(pooling.modes), len(labels))
        head.requires_grad_(requires_grad=False)
        logits = EncoderLogits(model, family, pooling, head)
        task_head = {
            f"task_head.{key}": (f"task_head.{key}", _array(tensor))
            for key, tensor in head.named_parameters()
        }
    info = ModelInfo(
        name=name,
        architecture=type(model).__name__,
        family=family.name,
        license=_license(folder),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bytes=stored,
    )
    return Source(
        folder=folder,
        info=info,
        family=family,
        model=model,
        config=config,
        logits=logits.eval(),
        task_modules=modules,
        task_head=task_head,
        pooling=pooling,
        pad_id=int(config.pad_token_id or 0),
        max_length=int(config.max_position_embeddings) - family.position_offset,
        notices=notices,
    )


def _check_labels(
    config: PreTrainedConfig, labels: Sequence[str], folder: Path, *, classifies: bool
) -> None:
    if not classifies:
        return
    if config.num_labels == 1 or config.problem_type in {
        "regression",
        "multi_label_classification",
    }:
        raise ModelError(
            "the checkpoint's head is for regression or several labels a text",
            where=str(folder),
            hint="text-classification needs one label a text: export the model without that head",
        )
    if config.num_labels != len(labels):
        raise ModelError(
            f"the checkpoint's own task head has {config.num_labels} labels, --labels names "
            f"{len(labels)}",
            where=str(folder),
            hint="name its own labels, or export the encoder it was made from",
        )


def _check_complete(missing: set[str], allowed: Sequence[str], folder: Path) -> None:
    lost = sorted(
        name for name in missing if not any(name.startswith(f"{module}.") for module in allowed)
    )
    if lost:
        raise ModelError(
            f"the checkpoint has no parameter {lost[0]!r} ({len(lost)} are missing)",
            where=str(folder),
            hint="config.json and the weights must belong together: download the model again",
        )


def _own_head(model: nn.Module) -> tuple[tuple[str, ...], dict[str, tuple[str, Tensor]]]:
    """Modules outside the encoder, and their parameters under ``task_head.*``."""
    encoder = str(getattr(model, "base_model_prefix", ""))
    modules = tuple(
        name
        for name, module in model.named_children()
        if name != encoder and any(True for _ in module.parameters())
    )
    if not modules:
        raise ModelError("has no task head of its own", where=type(model).__name__)
    tensors: dict[str, tuple[str, Tensor]] = {}
    for full, tensor in model.named_parameters():
        top, _, rest = full.partition(".")
        if top in modules:
            tensors[f"task_head.{rest if len(modules) == 1 else full}"] = (full, tensor)
    return modules, tensors


def _fill(head: Mapping[str, tuple[str, Tensor]], missing: set[str], seed: int) -> None:
    for index, (full, tensor) in enumerate(head.values()):
        if full not in missing:
            continue
        numbers = np.zeros(tensor.numel())
        if tensor.dim() > 1:
            numbers = _INIT_SPREAD * Stream(seed, Purpose.TASK_HEAD, index=index).normal(
                tensor.numel()
            )
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(numbers.reshape(tensor.shape)))


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().numpy()
    return array
