"""Pretrained models: found, checked, loaded without running anybody's code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
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
from ravan_export.outline import outlined
from ravan_export.pooling import Pooling
from ravan_export.settings import Trust
from ravan_export.weights import code_files, code_notice, find_weights

__all__ = [
    "Checkpoint",
    "Source",
    "check_complete",
    "config_document",
    "open_checkpoint",
    "open_outline",
    "resolve",
]

_SMALL_FILES = ("*.json", "*.txt", "*.model", "README.md")
# Modules of sentence-transformers are small, and what they are decides what is captured.
_OUTLINE_FILES = (*_SMALL_FILES, "*_Dense/*.safetensors")
_WEIGHT_FILES = (*_SMALL_FILES, "*.safetensors")
_PICKLED_FILES = ("pytorch_model*.bin",)
_NOTHING_MORE = Trust()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that passed the checks before loading.

    Args:
        folder: Its files.
        name: As the manifest says it.
        config: Its configuration; a task may set the number of labels before it loads.
        family: Its family.
        form: How the family does the task.
        stored: Bytes of the weights; None: only the configuration is there, and the model is an
            outline without numbers.
        trust: What the folder may do.
        pickled: Whether its weights are pickled.
        notices: What a person should know about it.
    """

    folder: Path
    name: str
    config: PreTrainedConfig
    family: Family
    form: Form
    stored: int | None
    trust: Trust = _NOTHING_MORE
    pickled: bool = False
    notices: tuple[str, ...] = ()

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
        numbers = sum(parameter.numel() for parameter in model.parameters())
        dtype = self.config.dtype if isinstance(self.config.dtype, torch.dtype) else torch.float32
        return ModelInfo(
            name=self.name,
            architecture=type(model).__name__,
            family=self.family.name,
            license=_license(self.folder),
            parameters=numbers,
            bytes=numbers * dtype.itemsize if self.stored is None else self.stored,
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


def resolve(model: str, trust: Trust = _NOTHING_MORE, *, weights: bool = True) -> tuple[Path, str]:
    """The folder of a model and its name: a local folder, or a hub id that is fetched.

    Args:
        model: The folder or the id.
        trust: Decides whether pickled weights and code are fetched too.
        weights: Whether weights are wanted.

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

    patterns = [*(_WEIGHT_FILES if weights else _OUTLINE_FILES)]
    if trust.trust_remote_code:
        patterns.append("*.py")
    try:
        found = snapshot_download(model, allow_patterns=patterns)
        if weights and trust.allow_pickle and not any(Path(found).glob("model*.safetensors")):
            found = snapshot_download(model, allow_patterns=[*patterns, *_PICKLED_FILES])
    except Exception as error:  # the hub client's errors share no base but Exception
        raise ModelError(
            f"no such folder, and not on the hub: {type(error).__name__}",
            where=model,
            hint="give a local folder, or check the name and the connection",
        ) from error
    return Path(found), model


def config_document(folder: Path) -> dict[str, Any]:
    """The content of a model folder's config.json.

    Raises:
        ModelError: It is not there, or cannot be read.
    """
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
    return document


def _config(folder: Path, document: Mapping[str, Any], *, run_code: bool) -> PreTrainedConfig:
    where = str(folder / "config.json")
    if not any(document.get("model_type") in family.model_types for family in FAMILIES):
        known = sorted(kind for family in FAMILIES for kind in family.model_types)
        raise ModelError(
            f"model type {document.get('model_type')!r} is not known",
            where=where,
            hint=f"known are {', '.join(known)}; a further family is one file in "
            "export/ravan_export/families (docs/export.md)",
        )
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=run_code
        )
    except Exception as error:  # a wrong type of any field ends up here
        raise ModelError(
            f"is refused: {error}",
            where=where,
            hint="MODEL is a folder with config.json and model.safetensors",
        ) from error
    return config


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
    if checkpoint.stored is None:
        return _outline(checkpoint, model_class), set()
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, report = model_class.from_pretrained(
            checkpoint.folder,
            config=checkpoint.config,
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=not checkpoint.pickled,
            weights_only=True,
            local_files_only=True,
            trust_remote_code=checkpoint.trust.trust_remote_code,
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


def _outline(checkpoint: Checkpoint, model_class: Any) -> Any:  # noqa: ANN401
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    # Auto classes look up the class first.
    make = getattr(model_class, "_from_config", None) or model_class.from_config
    try:
        model = outlined(lambda: make(checkpoint.config, **options))
    except Exception as error:  # whatever sizes that do not fit raise
        raise ModelError(
            f"no model can be built from it: {type(error).__name__}: {error}",
            where=str(checkpoint.folder / "config.json"),
            hint="download it again",
        ) from error
    _untie(model, config_document(checkpoint.folder))
    return model.eval()


def _untie(model: Any, document: Mapping[str, Any]) -> None:  # noqa: ANN401
    """Give an outline a vocabulary matrix of its own where the checkpoint has one.

    transformers ties those of T5 until it sees that the checkpoint's differ. Its configurations say
    so by one key, or by another one when transformers 5 wrote them.
    """
    head, words = model.get_output_embeddings(), model.get_input_embeddings()
    own = False in (document.get("tie_word_embeddings"), document.get("scale_decoder_outputs"))
    if own and head is not None and head.weight is words.weight:
        weight = torch.zeros(()).expand(words.weight.shape)
        head.weight = nn.Parameter(weight, requires_grad=False)


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


def open_checkpoint(
    folder: Path,
    name: str,
    task: str,
    trust: Trust = _NOTHING_MORE,
    *,
    announce: Callable[[str], None] = lambda _: None,
) -> Checkpoint:
    """Check a folder, without loading its weights.

    Args:
        folder: From :func:`resolve`.
        name: As the manifest says it.
        task: Of the manifest.
        trust: What the folder may do.
        announce: Told which files of code are going to be run, before they are.

    Raises:
        ModelError: It cannot be loaded safely, or its family is not known or cannot do the task.
    """
    document = config_document(folder)
    code = code_files(folder, document, trust)
    if code:
        announce(f"running code that came with the model: {', '.join(map(str, code))}")
    config = _config(folder, document, run_code=bool(code))
    family, form = _family(config, task, folder)
    weights = find_weights(folder, trust)
    return Checkpoint(
        folder,
        name,
        config,
        family,
        form,
        weights.bytes,
        trust,
        bool(weights.pickled),
        (*code_notice(code), *weights.notices),
    )


def open_outline(folder: Path, name: str, task: str) -> Checkpoint:
    """Check a folder of which only config.json need be there; the model has no numbers.

    Raises:
        ModelError: It needs code of its own, or its family is not known or cannot do the task.
    """
    document = config_document(folder)
    code_files(folder, document, _NOTHING_MORE)
    config = _config(folder, document, run_code=False)
    family, form = _family(config, task, folder)
    return Checkpoint(folder, name, config, family, form, stored=None)


def _family(config: PreTrainedConfig, task: str, folder: Path) -> tuple[Family, Form]:
    family = next(item for item in FAMILIES if config.model_type in item.model_types)
    return family, _form(family, task, folder)


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
