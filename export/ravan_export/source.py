"""Pretrained models: found, checked, loaded without running anybody's code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from optimum.exporters.tasks import TasksManager
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig
from transformers import logging as transformers_logging

from ravan_edge.artifact.manifest import ImageSettings, ModelInfo, TextSettings
from ravan_edge.errors import ModelError
from ravan_export.families import FAMILIES, Family, Form
from ravan_export.pooling import Pooling

__all__ = ["Checkpoint", "Source", "check_complete", "open_checkpoint", "resolve"]

_HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "README.md")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model.pt", "model.pt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that passed the checks before loading.

    Args:
        folder: Its files.
        name: As the manifest says it.
        config: Its configuration; a task may set the number of labels before it loads.
        family: Its family.
        form: How the family does the task.
        stored: Bytes of the weights.
    """

    folder: Path
    name: str
    config: PreTrainedConfig
    family: Family
    form: Form
    stored: int

    def load(self, optimum_task: str, *, other_sizes: bool = False) -> tuple[Any, set[str]]:
        """The model in eval mode, and the names of parameters the checkpoint does not have.

        Args:
            optimum_task: optimum's name of the task, which chooses the class unless the form does.
            other_sizes: Whether parameters that the checkpoint has in another size count as not
                there; else they are refused.

        Raises:
            ModelError: It cannot be loaded.
        """
        return _load(self, optimum_task, other_sizes=other_sizes)

    def info(self, model: nn.Module) -> ModelInfo:
        """What the manifest says of the loaded model."""
        return ModelInfo(
            name=self.name,
            architecture=type(model).__name__,
            family=self.family.name,
            license=_license(self.folder),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            bytes=self.stored,
        )


@dataclass(frozen=True, slots=True)
class Source:
    """A model loaded for one task.

    Args:
        checkpoint: Where it is from.
        info: For the manifest.
        model: The Hugging Face model, in eval mode, float32, attention written out.
        captured: The module that is captured: holds ``model`` and, for a bare encoder, a task head.
        labels: The label map; empty for a task without one.
        task_modules: Modules of ``model`` that take no adapters: its own task head, a vocabulary
            matrix.
        task_head: Trained parameters: name in the tensor table -> (dotted name in ``captured``,
            initial value). Empty for a task without a label map.
        frozen: Parameters of ``model`` and numbers that the task's loss reads beside the output, by
            its names for them.
        text: How texts are read; None for images.
        image: How images are read; None for texts.
        pooling: Of a bare encoder.
        notices: What a person should know.
    """

    checkpoint: Checkpoint
    info: ModelInfo
    model: Any
    captured: nn.Module
    labels: tuple[str, ...] = ()
    task_modules: tuple[str, ...] = ()
    task_head: Mapping[str, tuple[str, NDArray[np.float32]]] = field(default_factory=dict)
    frozen: Mapping[str, Tensor | float] = field(default_factory=dict)
    text: TextSettings | None = None
    image: ImageSettings | None = None
    pooling: Pooling | None = None
    notices: tuple[str, ...] = ()

    @property
    def config(self) -> PreTrainedConfig:
        """The model's configuration."""
        return self.checkpoint.config

    @property
    def family(self) -> Family:
        """The model's family."""
        return self.checkpoint.family


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
    if not any(document.get("model_type") in family.model_types for family in FAMILIES):
        known = sorted(kind for family in FAMILIES for kind in family.model_types)
        raise ModelError(
            f"model type {document.get('model_type')!r} is not known",
            where=str(path),
            hint=f"known are {', '.join(known)}; a further family is one file in "
            "export/ravan_export/families (docs/export.md)",
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


def _load(checkpoint: Checkpoint, optimum_task: str, *, other_sizes: bool) -> tuple[Any, set[str]]:
    model_class: Any = checkpoint.form.model_class or TasksManager.get_model_class_for_task(
        optimum_task, framework="pt"
    )
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, report = model_class.from_pretrained(
            checkpoint.folder,
            config=checkpoint.config,
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=other_sizes,
        )
    except Exception as error:  # whatever a broken file raises
        first = str(error).strip().splitlines()
        raise ModelError(
            f"cannot be loaded: {type(error).__name__}: {first[0] if first else ''}",
            where=str(checkpoint.folder),
            hint="download the model again; config and weights must belong together",
        ) from error
    finally:
        transformers_logging.set_verbosity(before)
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=False)
    missing = {str(name) for name in report["missing_keys"]}
    return model.eval(), missing | {str(entry[0]) for entry in report["mismatched_keys"]}


def _form(family: Family, task: str, folder: Path) -> Form:
    form = family.forms.get(task)
    if form is not None:
        return form
    able = [item.name for item in FAMILIES if task in item.forms]
    raise ModelError(
        f"{family.name} cannot be exported for {task}",
        where=str(folder),
        hint=f"{family.name} has {', '.join(family.forms)}; {task} works for "
        f"{', '.join(able) or 'no family yet'}",
    )


def open_checkpoint(folder: Path, name: str, task: str) -> Checkpoint:
    """Check a folder, without loading its weights.

    Args:
        folder: From :func:`resolve`.
        name: As the manifest says it.
        task: Of the manifest.

    Raises:
        ModelError: It cannot be loaded safely, or its family is not known or cannot do the task.
    """
    config = _config(folder)
    family = next(item for item in FAMILIES if config.model_type in item.model_types)
    form = _form(family, task, folder)
    return Checkpoint(folder, name, config, family, form, _check_weights(folder))


def check_complete(missing: set[str], allowed: Sequence[str], folder: Path) -> None:
    """Refuse a checkpoint that lacks parameters outside the modules that may be new.

    Raises:
        ModelError: Names the first one.
    """
    lost = sorted(
        name for name in missing if not any(name.startswith(f"{module}.") for module in allowed)
    )
    if lost:
        raise ModelError(
            f"the checkpoint has no parameter {lost[0]!r} ({len(lost)} are missing)",
            where=str(folder),
            hint="config.json and the weights must belong together: download the model again",
        )
