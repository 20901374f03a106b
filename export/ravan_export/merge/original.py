"""The Hugging Face model an artifact was made from: found, loaded, and compared number by number."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel
from transformers import logging as transformers_logging
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from ravan_edge.artifact.opening import Artifact
from ravan_edge.errors import ModelError
from ravan_export.settings import Trust
from ravan_export.source import config_document, resolve
from ravan_export.weights import code_files, code_notice, find_weights

__all__ = ["Original", "load_folder", "load_original", "quiet"]

_NOTHING_MORE = Trust()
_HINT = "name the folder or hub id it was exported from with --model"


@dataclass(frozen=True, slots=True)
class Original:
    """The loaded model.

    Args:
        folder: Its files.
        model: In eval mode, as stored or in float32.
        missing: Parameters that the checkpoint does not have.
        task_head: Tensor of the table (``task_head.*``) -> dotted parameter of the model; None where
            the task head stands behind the model (a sentence encoder).
        trust: What its folder may do.
        code: Files of code that came with it and were run.
        notices: What a person should know about it.
    """

    folder: Path
    model: Any
    missing: frozenset[str]
    task_head: Mapping[str, str] | None
    trust: Trust = _NOTHING_MORE
    code: tuple[Path, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def dtype(self) -> str:
        """How its numbers are stored: ``float32``, ``bfloat16``, ..."""
        return str(self.model.dtype).removeprefix("torch.")


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no warnings of transformers: what matters is said by us."""
    before = transformers_logging.get_verbosity()
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        if shown:
            transformers_logging.enable_progress_bar()


def _class(architecture: str, folder: Path, auto_map: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """The manifest's architecture as a class of transformers, or of the code that may be run."""
    for reference in auto_map.values():
        if str(reference).endswith(f".{architecture}"):
            return get_class_from_dynamic_module(str(reference), str(folder), local_files_only=True)
    found = getattr(transformers, architecture, None) if architecture.isidentifier() else None
    if not (inspect.isclass(found) and issubclass(found, PreTrainedModel)):
        raise ModelError(
            f"transformers {transformers.__version__} has no model class {architecture!r}",
            hint="upgrade transformers, or export the artifact again",
        )
    return found


def load_folder(
    folder: Path,
    architecture: str,
    labels: tuple[str, ...] = (),
    dtype: torch.dtype | None = None,
    *,
    trust: Trust = _NOTHING_MORE,
) -> tuple[Any, frozenset[str]]:
    """Load a model without running anybody's code, unless it is trusted.

    Args:
        folder: With config.json and safetensors.
        architecture: The class.
        labels: The label map to give it; empty: its own.
        dtype: To load as; None: as stored.
        trust: What the folder may do.

    Returns:
        The model in eval mode, and the parameters that the checkpoint does not have, or not in
        this shape (a head for other labels).

    Raises:
        ModelError: It cannot be loaded, or is of another kind.
    """
    document = config_document(folder)
    run_code = bool(code_files(folder, document, trust))
    weights = find_weights(folder, trust)
    try:
        kind = _class(architecture, folder, document["auto_map"] if run_code else {})
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=run_code
        )
    except ModelError:
        raise
    except Exception as error:  # whatever a missing or broken file raises
        raise ModelError(
            f"config.json cannot be read: {type(error).__name__}", where=str(folder), hint=_HINT
        ) from error
    wanted = kind.config_class
    if wanted is not None and not isinstance(config, wanted):
        raise ModelError(
            f"is a model of type {config.model_type!r}; the artifact was made from a {architecture}",
            where=str(folder),
            hint=_HINT,
        )
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    try:
        with quiet():
            model, report = kind.from_pretrained(
                folder,
                config=config,
                dtype=dtype or "auto",
                use_safetensors=not weights.pickled,
                weights_only=True,
                local_files_only=True,
                output_loading_info=True,
                # A head for other labels gives way to the trained one; nothing else may.
                ignore_mismatched_sizes=bool(labels),
            )
    except Exception as error:  # whatever a broken file raises
        first = str(error).strip().splitlines()
        raise ModelError(
            f"cannot be loaded: {type(error).__name__}: {first[0] if first else ''}",
            where=str(folder),
            hint=_HINT,
        ) from error
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=False)
    mismatched = {str(entry[0]) for entry in report["mismatched_keys"]}
    return model.eval(), frozenset({str(name) for name in report["missing_keys"]} | mismatched)


def load_original(
    artifact: Artifact,
    model: str | None,
    dtype: torch.dtype | None = None,
    *,
    trust: Trust = _NOTHING_MORE,
    announce: Callable[[str], None] = lambda _: None,
) -> Original:
    """Load the model that an artifact was made from, and make sure that it is that one.

    Args:
        artifact: An opened artifact.
        model: A folder or hub id; None: what the manifest calls the model.
        dtype: To load as; None: as stored.
        trust: What its folder may do: what it did when it was exported.
        announce: Told which files of code are going to be run, before they are.

    Raises:
        ModelError: It is not there, cannot be loaded, or is another model: names the first tensor
            that differs.
    """
    info = artifact.manifest.model
    try:
        folder, _ = resolve(model or info.name, trust)
    except ModelError as error:
        if model is not None:
            raise
        raise ModelError(
            f"the artifact was made from {info.name!r}, which is not here: {error.message}",
            where="--model",
            hint="name its folder or hub id with --model",
        ) from error
    code = code_files(folder, config_document(folder), trust)
    if code:
        announce(f"running code that came with the model: {', '.join(map(str, code))}")
    loaded, missing = load_folder(
        folder, info.architecture, artifact.manifest.labels, dtype, trust=trust
    )
    _same(artifact, loaded, missing, folder)
    notices = (*code_notice(code), *find_weights(folder, trust).notices)
    return Original(folder, loaded, missing, _task_head(artifact, loaded), trust, code, notices)


def _tensors(model: Any) -> dict[str, Tensor]:  # noqa: ANN401
    return {
        **dict(model.named_buffers(remove_duplicate=False)),
        **dict(model.named_parameters(remove_duplicate=False)),
    }


def _as_array(tensor: Tensor, like: NDArray[Any]) -> NDArray[Any]:
    """The tensor in the base's dtype; bfloat16 and float16 fit into float32 exactly."""
    if tensor.is_floating_point():
        tensor = tensor.float()
    array: NDArray[Any] = tensor.detach().numpy()
    return array.astype(like.dtype, copy=False)


def _same(artifact: Artifact, model: Any, missing: frozenset[str], folder: Path) -> None:  # noqa: ANN401
    """The base's tensors are the model's, byte for byte, wherever both have them."""
    tensors = _tensors(model)
    bases = {basis.name for basis in artifact.manifest.bases}
    adapted = {f"{layer.name}.weight" for layer in artifact.manifest.layers}
    shared = 0
    for name, array in artifact.base.items():
        if name in bases:
            continue
        tensor = tensors.get(name)
        if tensor is None and name not in adapted:
            continue  # a constant that the exporter made
        if tensor is None or name in missing or tuple(tensor.shape) != array.shape:
            found = "it has none" if tensor is None or name in missing else list(tensor.shape)
            raise _another(
                f"the artifact has {list(array.shape)} there, the model {found}", name, folder
            )
        # Bytes, not values: -0.0 is not 0.0, and a NaN is itself.
        found_bytes = np.ascontiguousarray(_as_array(tensor, array)).reshape(-1).view(np.uint8)
        if not np.array_equal(found_bytes, np.ascontiguousarray(array).reshape(-1).view(np.uint8)):
            raise _another("its numbers are not those in the artifact", name, folder)
        shared += 1
    if not shared:
        raise _another("it has no tensor of the artifact's base", "base.safetensors", folder)


def _another(message: str, tensor: str, folder: Path) -> ModelError:
    return ModelError(
        f"not the model the artifact was made from: tensor {tensor!r}: {message}",
        where=str(folder),
        hint=_HINT,
    )


def _task_head(artifact: Artifact, model: Any) -> dict[str, str] | None:  # noqa: ANN401
    """Where the table's ``task_head.*`` belong in the model; None: behind it.

    The exporter names them by their place in the model's head, without the head's own name where
    the model has just one such module.
    """
    wanted = {
        entry.name: entry.shape
        for entry in artifact.manifest.tensors
        if entry.name.startswith("task_head.")
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    encoder = str(getattr(model, "base_model_prefix", ""))
    prefixes = ["", *(f"{name}." for name, _ in model.named_children() if name != encoder)]
    for prefix in prefixes:
        places = {name: re.sub(r"^task_head\.", prefix, name) for name in wanted}
        if all(shapes.get(place) == wanted[name] for name, place in places.items()):
            return places
    return None
