"""Merged decoders have the names and shapes that GGUF converters look for (the package ``gguf``)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from ravan_edge.artifact import open_artifact
from ravan_export.export import export_artifact
from ravan_export.merge import merge_artifact
from tests.export.decoder_models import save_decoder
from tests.export.merge_kit import trained

BuildOnce = Callable[[str, Callable[[Path], None]], Path]
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "llama-untied": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3": gguf.MODEL_ARCH.GEMMA3,
}
_QUICK = ("gemma3",)
Kind = gguf.MODEL_TENSOR


@pytest.fixture(scope="module")
def merged(build_once: BuildOnce) -> Callable[[str], Path]:
    """``merged("llama")``: the folder of a model, and ``merged`` in it, made from it."""

    def make(name: str) -> Path:
        def build(path: Path) -> None:
            path.mkdir()
            save_decoder(name, path / "model")
            export_artifact(path / "model", "causal-lm", None, path / "artifact", lora_budget=2)
            heads = trained(open_artifact(path / "artifact"), path / "heads.safetensors", size=0.1)
            merge_artifact(
                path / "artifact", heads, "hf", path / "merged", model=str(path / "model")
            )

        return build_once(f"gguf-{name}", build)

    return make


def expected_shape(kind: gguf.MODEL_TENSOR, config: dict[str, Any]) -> tuple[int, ...]:
    """What llama.cpp makes a tensor of when it loads the architecture, in numpy's order."""
    width, inner, words = (
        config[key] for key in ("hidden_size", "intermediate_size", "vocab_size")
    )
    head = config.get("head_dim") or width // config["num_attention_heads"]
    queries, keys = (config[f"num_{key}_heads"] * head for key in ("attention", "key_value"))
    return {
        Kind.TOKEN_EMBD: (words, width),
        Kind.OUTPUT: (words, width),
        Kind.ATTN_Q: (queries, width),
        Kind.ATTN_K: (keys, width),
        Kind.ATTN_V: (keys, width),
        Kind.ATTN_OUT: (width, queries),
        Kind.ATTN_Q_NORM: (head,),
        Kind.ATTN_K_NORM: (head,),
        Kind.FFN_GATE: (inner, width),
        Kind.FFN_UP: (inner, width),
        Kind.FFN_DOWN: (width, inner),
    }.get(kind, (width,))  # every other one is a norm


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in _QUICK else pytest.mark.slow)
        for name in ARCHITECTURES
    ],
)
def test_every_tensor_has_a_name_and_its_shape_in_gguf(
    name: str, merged: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = merged(name)
    config = json.loads((folder / "merged" / "config.json").read_text())
    tensors = load_file(folder / "merged" / "model.safetensors")
    # A converter sees what it saw before: the same names and shapes, other numbers in adapted layers.
    before = load_file(folder / "model" / "model.safetensors")
    assert {key: array.shape for key, array in tensors.items()} == {
        key: array.shape for key, array in before.items()
    }
    changed = {key for key in tensors if not np.array_equal(tensors[key], before[key])}
    assert changed == {
        f"{layer.name}.weight" for layer in open_artifact(folder / "artifact").manifest.layers
    }

    architecture = ARCHITECTURES[name]
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    written: dict[str, np.ndarray[Any, Any]] = {}
    for key, array in tensors.items():
        found = names.get_type_and_name(key, try_suffixes=(".weight", ".bias"))
        assert found is not None, f"{key} has no name in GGUF"
        kind, new = found
        assert kind in gguf.MODEL_TENSORS[architecture], key
        shape = expected_shape(kind, config)
        assert array.shape == (shape[:1] if key.endswith(".bias") else shape), key
        assert new not in written, key
        written[new] = array
    tied = config.get("tie_word_embeddings", True)
    assert ("output.weight" in written) != tied

    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_block_count(config["num_hidden_layers"])
    for new, array in written.items():
        writer.add_tensor(new, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    assert set(read) == set(written)
    assert all(np.array_equal(read[new], array) for new, array in written.items())


def test_what_a_converter_reads_beside_the_weights_is_there(
    merged: Callable[[str], Path],
) -> None:
    folder = merged("llama")
    before, after = (
        json.loads((folder / part / "config.json").read_text()) for part in ("model", "merged")
    )
    assert after["architectures"] == before["architectures"] == ["LlamaForCausalLM"]
    different = {key for key in before | after if before.get(key) != after.get(key)}
    assert different <= {"transformers_version", "dtype"}
    assert (folder / "merged" / "tokenizer.json").read_bytes() == (
        folder / "model" / "tokenizer.json"
    ).read_bytes()
