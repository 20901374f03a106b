"""``--to hf``: the heads folded into the weights, in a folder that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ravan_edge.artifact.opening import Artifact
from ravan_edge.artifact.tensor_file import write_tensors
from ravan_edge.errors import ModelError
from ravan_edge.files import storage_errors
from ravan_export.merge.check_torch import ExternalHead, check_torch
from ravan_export.merge.fold import factors, fold
from ravan_export.merge.folder import MergedFolder, writing
from ravan_export.merge.original import Original, load_folder, load_original, quiet
from ravan_export.merge.work import Heads, Work
from ravan_export.pooling import Pooling, read_pooling
from ravan_export.source import open_checkpoint

__all__ = ["TASK_HEAD", "add_task_head", "external_head", "fold_model", "merge_hf", "write_hf"]

TASK_HEAD = "task_head"
"""Where the head of a sentence encoder lies: a ``Dense`` module of sentence-transformers."""

# What belongs to a model beside config and weights: tokenizer, processor, template, terms.
_COPIED = ("*.json", "*.txt", "*.model", "*.spm", "*.jinja", "LICENSE*", "NOTICE*")
_MODULES = "sentence_transformers.models"
_FLAGS = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
_NOT_COPIED = ("config.json", "ravan_merge.json", "adapter_config.json")


def merge_hf(work: Work) -> None:
    """Fold the heads in and write the folder; see :func:`ravan_export.merge.merge_artifact`.

    Raises:
        ModelError: The model is not there, is another one, or cannot be merged.
        NumericsError: A merged weight is too large.
        StorageError: The disk is full, or the like.
    """
    work.progress("loading the model")
    original = load_original(work.artifact, work.model, trust=work.trust, announce=work.announce)
    work.notices.extend(original.notices)
    head = external_head(work.artifact, work.heads, original)
    work.progress("folding the heads in")
    fold_model(work.artifact, work.heads, original)
    write_hf(work.artifact, original, work.folder)
    if head is not None:
        _add_pooling(work.folder, head)
        work.notices.append(add_task_head(work.folder, head))
    work.progress("comparing it with the artifact")
    loaded, _ = load_folder(work.folder.path, type(original.model).__name__, trust=original.trust)
    exact = original.dtype == "float32"
    if not exact:
        work.notices.append(
            f"the model is stored as {original.dtype}: merged weights are rounded to that"
        )
    work.details["dtype"] = original.dtype
    work.compared(check_torch(loaded, work.expected, head), exact=exact)


@dataclass(frozen=True, slots=True)
class _Tied:
    """Names of parameters by the memory they share."""

    names: Mapping[int, tuple[str, ...]]

    @classmethod
    def of(cls, model: Any) -> _Tied:  # noqa: ANN401
        found: dict[int, tuple[str, ...]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            found[id(parameter)] = (*found.get(id(parameter), ()), name)
        return cls(found)


def fold_model(artifact: Artifact, heads: Heads, original: Original) -> None:
    """Fold the heads into the loaded model and set its own task head, in place.

    Raises:
        ModelError: An adapted weight is shared with another layer.
        NumericsError: A merged weight is too large.
    """
    model = original.model
    tied = _Tied.of(model)
    for layer in artifact.manifest.layers:
        weight = model.get_parameter(f"{layer.name}.weight")
        others = [name for name in tied.names[id(weight)] if name != f"{layer.name}.weight"]
        if others:
            raise ModelError(
                f"its weight is tied to {others[0]!r}, which would change with it",
                where=layer.name,
                hint="--to peft adds the heads beside the layer",
            )
        merged = fold(weight.detach().double().numpy(), factors(artifact, heads, layer))
        with torch.no_grad():
            weight.copy_(torch.from_numpy(merged))  # rounds once, to the stored dtype
    for name, place in (original.task_head or {}).items():
        with torch.no_grad():
            model.get_parameter(place).copy_(torch.from_numpy(heads[name]))


def external_head(artifact: Artifact, heads: Heads, original: Original) -> ExternalHead | None:
    """The task head of a sentence encoder; None where the model has its own or needs none.

    Raises:
        ModelError: The model has no place for the task head, and declares no pooling.
    """
    if original.task_head is not None:
        return None
    pooling = _pooling(artifact, original)
    names = {name.removeprefix("task_head.") for name in heads if name.startswith("task_head.")}
    if pooling is None or names != {"weight", "bias"}:
        raise ModelError(
            f"{artifact.manifest.model.architecture} has no place for the task head, and the folder "
            "declares no pooling",
            where=str(original.folder),
            hint="--to onnx needs neither",
        )
    return ExternalHead(pooling, heads["task_head.weight"], heads["task_head.bias"])


def _pooling(artifact: Artifact, original: Original) -> Pooling | None:
    """How token vectors become one: what the folder declares, or what the exporter chose."""
    manifest, folder = artifact.manifest, original.folder
    declared = read_pooling(folder)
    if declared is not None:
        return declared
    opened = open_checkpoint(folder, manifest.model.name, manifest.task, original.trust)
    return opened.form.pooling


def _add_pooling(folder: MergedFolder, head: ExternalHead) -> None:
    """Declare the pooling as sentence-transformers does, where the model's folder did not."""
    if (folder.path / "modules.json").is_file():
        return
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"))
    folder.add_json(
        "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"{_MODULES}.{kind}"}
            for index, (path, kind) in enumerate(kinds)
        ],
    )
    width = head.weight.shape[1] // len(head.pooling.modes)
    flags = {f"pooling_mode_{flag}": mode in head.pooling.modes for mode, flag in _FLAGS.items()}
    folder.add_json("1_Pooling/config.json", {"word_embedding_dimension": width, **flags})


def add_task_head(folder: MergedFolder, head: ExternalHead) -> str:
    """Write the head as a ``Dense`` module of sentence-transformers, to stand behind ``Normalize``.

    The factor sqrt(d) that the kit applies to a normalised vector goes into the weight.

    Returns:
        What to say about it.
    """
    outputs, inputs = head.weight.shape
    folder.add_json(
        f"{TASK_HEAD}/config.json",
        {
            "in_features": inputs,
            "out_features": outputs,
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    )
    weight = (head.weight.astype(np.float64) * inputs**0.5).astype(np.float32)
    path = folder.path / TASK_HEAD / "model.safetensors"
    with writing(folder.destination / TASK_HEAD):
        write_tensors(
            path,
            {"linear.weight": weight, "linear.bias": head.bias},
            {"format": "pt"},
            durable=False,
        )
    return (
        f"the encoder has no classifier of its own: the trained task head is {TASK_HEAD}/, a Dense "
        "module of sentence-transformers (docs/merge.md)"
    )


def write_hf(artifact: Artifact, original: Original, folder: MergedFolder) -> None:
    """Write the model as it now is, with the files that belong to it.

    Raises:
        StorageError: The disk is full, or the like.
    """
    _copy(original.folder, folder, original.code)
    model = original.model
    # What the checkpoint lacked and nobody trained (a pooler that is never read) stays away:
    # transformers has filled it with random numbers.
    trained = set((original.task_head or {}).values())
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name not in original.missing or name in trained
    }
    with writing(folder.destination), quiet():
        model.save_pretrained(folder.path, state_dict=state)
    tokenizer = artifact.tokenizer_path
    if tokenizer is not None:
        with storage_errors(tokenizer, "read the file"):
            content = tokenizer.read_bytes()
        folder.add_bytes("tokenizer.json", content)
    folder.add_bytes("README.md", _card(artifact).encode())


def _copy(source: Path, folder: MergedFolder, code: Sequence[Path]) -> None:
    for relative in (*_files(source), *(path.name for path in code)):
        with storage_errors(source / relative, "read the file"):
            content = (source / relative).read_bytes()
        folder.add_bytes(relative, content)


def _files(source: Path) -> Iterator[str]:
    """Files to copy: at the top, and the modules of sentence-transformers."""
    names = {path.name for pattern in _COPIED for path in source.glob(pattern) if path.is_file()}
    for name in sorted(names):
        if name not in _NOT_COPIED and not name.endswith(".index.json"):
            yield name
    if "modules.json" in names:
        for module in json.loads((source / "modules.json").read_text("utf-8")):
            place = Path(str(module.get("path", "")))  # read_pooling refuses one that leaves
            for name in ("config.json", "model.safetensors"):
                if place.parts and (source / place / name).is_file():
                    yield (place / name).as_posix()


def _card(artifact: Artifact) -> str:
    """A model card: where this is from, and under which terms."""
    info = artifact.manifest.model
    licence = f"license: {info.license}\n" if info.license else ""
    return (
        f"---\nbase_model: {info.name}\n{licence}library_name: transformers\n---\n\n"
        f"# {info.name}, fine-tuned\n\n"
        f"Made by `ravan merge --to hf`: trained {artifact.manifest.method.name} heads folded into "
        f"the weights of {info.name}, for {artifact.manifest.task}.\n"
    )
