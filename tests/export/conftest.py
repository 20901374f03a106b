"""Small models with random weights, saved once, and artifacts exported from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
)

from ravan_edge.artifact.opening import Artifact, open_artifact
from ravan_export.export import export_artifact
from tests.export.merge_kit import trained, with_words

LABELS = 3
SIZES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 24, "type_vocab_size": 2, "max_position_embeddings": 40},
    "roberta": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                "intermediate_size": 24, "pad_token_id": 1, "max_position_embeddings": 42},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24,
                   "max_position_embeddings": 40},
}  # fmt: skip

BuildOnce = Callable[[str, Callable[[Path], None]], Path]
Models = Callable[[str], Path]
Artifacts = Callable[..., Artifact]


def tiny_config(kind: str) -> PreTrainedConfig:
    return AutoConfig.for_model(kind, vocab_size=60, num_labels=LABELS, **SIZES[kind])


def _spread(model: torch.nn.Module) -> None:
    """Weights large enough that every part of the model matters."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            elif "norm" in name.lower() and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.2 * noise)


def save(model: torch.nn.Module, folder: Path) -> None:
    _spread(model)
    model.save_pretrained(folder)  # type: ignore[operator]
    words = {word: index for index, word in enumerate(["[UNK]", "[PAD]", "a", "b"])}
    Tokenizer(models.WordLevel(words, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))


def save_sentence_encoder(folder: Path, modes: tuple[str, ...] = ("mean_tokens",)) -> None:
    save(AutoModel.from_config(tiny_config("bert")), folder)
    kinds = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": index, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    config = {f"pooling_mode_{mode}": True for mode in modes}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="session")
def tiny_model(build_once: BuildOnce) -> Models:
    """``tiny_model(kind)``: a model type of SIZES, ``sentence`` or ``sentence-cls-max``."""

    def folder(kind: str) -> Path:
        def build(path: Path) -> None:
            if kind == "sentence":
                save_sentence_encoder(path)
            elif kind == "sentence-cls-max":
                save_sentence_encoder(path, ("cls_token", "max_tokens"))
            else:
                save(AutoModelForSequenceClassification.from_config(tiny_config(kind)), path)

        return build_once(f"tiny-{kind}", build)

    return folder


@pytest.fixture(scope="session")
def exported(build_once: BuildOnce, tiny_model: Models) -> Artifacts:
    """``exported("bert", method="ravan", ...)``: the opened artifact, made once for each set of options."""

    def artifact(kind: str, **options: Any) -> Artifact:
        options = {"lora_budget": 2} | options
        name = "-".join([kind, *(f"{key}.{value}" for key, value in sorted(options.items()))])

        def build(path: Path) -> None:
            export_artifact(tiny_model(kind), labels=LABELS, out=path, **options)

        return open_artifact(build_once(f"artifact-{name}", build))

    return artifact


@pytest.fixture
def copied(tiny_model: Models, tmp_path: Path) -> Models:
    """A tiny model's folder that a test may damage."""

    def copy(kind: str) -> Path:
        return Path(shutil.copytree(tiny_model(kind), tmp_path / kind))

    return copy


@dataclass(frozen=True)
class Trained:
    """A tiny model, its artifact and heads as if trained."""

    model: Path
    artifact: Path
    heads: Path


@pytest.fixture(scope="session")
def with_heads(build_once: BuildOnce, tiny_model: Models) -> Callable[..., Trained]:
    """``with_heads("bert", method="ravan", ...)``: a model that reads words, exported, with heads."""

    def make(kind: str, **options: Any) -> Trained:
        options = {"lora_budget": 2} | options
        name = "-".join([kind, *(f"{key}.{value}" for key, value in sorted(options.items()))])
        model = build_once(f"words-{kind}", lambda path: with_words(tiny_model(kind), path))

        def build(path: Path) -> None:
            path.mkdir()
            export_artifact(model, labels=LABELS, out=path / "artifact", **options)
            trained(open_artifact(path / "artifact"), path / "heads.safetensors")

        folder = build_once(f"trained-{name}", build)
        return Trained(model, folder / "artifact", folder / "heads.safetensors")

    return make
