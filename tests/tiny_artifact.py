"""A real, runnable artifact of a few kB, made without torch: for tests and for the bench.

The model is an embedding, the mean over the shown tokens, one adapted linear layer, tanh, and a
task head (tests/tiny_graph.py). Its gradients are written by hand here a second time, in numpy
float64, and held equal to torch in tests/artifact/test_tiny_artifact.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.graph_check import graph_operators
from ravan_edge.artifact.graph_file import read_graph_bytes
from ravan_edge.artifact.heads import heads_metadata
from ravan_edge.artifact.manifest import (
    Basis,
    Conformance,
    ConformanceCase,
    FileEntry,
    GraphTensor,
    Layer,
    Manifest,
    MethodSettings,
    ModelInfo,
    Plan,
    Role,
    TensorEntry,
    TextSettings,
)
from ravan_edge.artifact.opening import Artifact, open_artifact
from ravan_edge.artifact.tensor_file import BASE_BOUNDS, read_header
from ravan_edge.artifact.writer import ArtifactWriter
from tests.tiny_graph import LAYER, build_graph

__all__ = [
    "LAYER",
    "Method",
    "TinySizes",
    "make_tiny_artifact",
    "reference",
    "tiny_rows",
    "tiny_step_batch",
]

Arrays = dict[str, NDArray[Any]]
Method = Literal["ravan", "fedit", "head-only"]


@dataclass(frozen=True)
class TinySizes:
    """The model's sizes. ``TinySizes(width=32, heads=4, rank=24)`` has about 10 kB of heads."""

    vocabulary: int = 64
    width: int = 16
    heads: int = 4
    rank: int = 3
    labels: int = 3
    max_length: int = 64


def make_tiny_artifact(
    folder: Path, *, sizes: TinySizes | None = None, method: Method = "ravan", seed: int = 0
) -> Artifact:
    """Write a tiny artifact to ``folder`` (which must not exist) and open it.

    Labels are ``label0``, ``label1``, ...; words are ``w0``, ``w1``, ... (see :func:`tiny_rows`).
    Equal arguments give equal bytes.
    """
    sizes = sizes or TinySizes()
    generator = np.random.default_rng(seed)
    base = _base(sizes, method, generator)
    heads = _heads(sizes, method, generator)
    table = _table(heads)
    layers = _layers(sizes, method)
    bases = _bases(base)
    inputs, outputs = _interface(sizes, table, bases)
    scale = 16.0 / sizes.rank
    pretrained = [array for name, array in base.items() if not name.endswith((".A", ".Bt"))]
    with ArtifactWriter(folder) as writer:
        writer.add_tensors("base.safetensors", base, {"format": "ravan-base"})
        writer.add_tensors("heads.safetensors", heads, heads_metadata(0, None))
        header = read_header(writer.folder / "base.safetensors", BASE_BOUNDS)
        graphs = {role: f"plans/whole/{role}.onnx" for role in ("step", "eval")}
        operators: set[str] = set()
        for role, path in graphs.items():
            content = build_graph(
                role, method, inputs, outputs[role], header, labels=sizes.labels, scale=scale
            )
            writer.add_bytes(path, content)
            operators |= graph_operators(read_graph_bytes(content))
        writer.add_bytes("tokenizer/tokenizer.json", _tokenizer(sizes))
        case = _conformance(writer, sizes, base, heads, scale, generator)

        def manifest(files: Mapping[str, FileEntry]) -> Manifest:
            return Manifest(
                schema_version=1,
                model=ModelInfo(
                    name="tiny",
                    architecture="TinyMeanPooling",
                    family="tiny",
                    license="Apache-2.0",
                    parameters=sum(array.size for array in pretrained),
                    bytes=sum(array.nbytes for array in pretrained),
                ),
                task="text-classification",
                labels=tuple(f"label{index}" for index in range(sizes.labels)),
                method=_settings(sizes, method, seed),
                layers=layers,
                tensors=table,
                bases=bases,
                text=TextSettings(
                    tokenizer="tokenizer/tokenizer.json", max_length=sizes.max_length, pad_id=0
                ),
                plans={
                    "whole": Plan(
                        graphs=graphs,
                        inputs=inputs,
                        outputs=outputs,
                        blobs=("base.safetensors", *graphs.values()),
                        operators=tuple(sorted(operators)),
                        opset=18,
                    )
                },
                files=dict(files),
                conformance=Conformance(
                    file="conformance.safetensors", tolerance=1e-5, cases=(case,)
                ),
                exporter={},
            )

        writer.write_manifest(manifest)
        writer.publish()
    return open_artifact(folder)


def tiny_rows(
    count: int, *, sizes: TinySizes | None = None, seed: int = 0, words: int = 8
) -> list[tuple[str, str]]:
    """(text, label) pairs that can be learned: each label prefers its own part of the words."""
    sizes = sizes or TinySizes()
    generator = np.random.default_rng(seed)
    own = (sizes.vocabulary - 2) // sizes.labels
    rows = []
    for index in range(count):
        label = index % sizes.labels
        picked = generator.integers(0, own, words) + label * own
        anything = generator.integers(0, sizes.vocabulary - 2, words)
        ids = np.where(generator.random(words) < 0.6, picked, anything)
        rows.append((" ".join(f"w{word}" for word in ids), f"label{label}"))
    return rows


def tiny_step_batch(
    batch: int, length: int, *, sizes: TinySizes | None = None, seed: int = 0
) -> Arrays:
    """A random batch with padding, a row that counts nothing and a fully padded one of those."""
    sizes = sizes or TinySizes()
    generator = np.random.default_rng(seed)
    shown = generator.integers(1, length + 1, batch)
    labels = generator.integers(0, sizes.labels, batch)
    if batch > 2:
        labels[-2:] = -100
        shown[-1] = 0
    mask = (np.arange(length) < shown[:, None]).astype(np.int64)
    ids = generator.integers(2, sizes.vocabulary, (batch, length)) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def reference(base: Arrays, params: Arrays, batch: Arrays, scale: float) -> Arrays:
    """``loss_sum``, ``count``, ``correct``, ``logits`` and ``grad.<parameter>``, in float64."""
    wide = {name: array.astype(np.float64) for name, array in (base | params).items()}
    mask = batch["attention_mask"].astype(np.float64)
    tokens = wide["embedding.weight"][batch["input_ids"]]
    x = np.einsum("bl,bln->bn", mask, tokens) / np.maximum(mask.sum(1, keepdims=True), 1)
    weight = wide[f"{LAYER}.weight"]
    if f"{LAYER}.H" in params:
        H, s = wide[f"{LAYER}.H"], wide[f"{LAYER}.s"]
        A, Bt = wide[f"{LAYER}.A"], wide[f"{LAYER}.Bt"]
        weight = weight + np.einsum("h,hjm,hjk,hkn->mn", s, Bt, H, A)
    elif f"{LAYER}.lora_A" in params:
        weight = weight + scale * wide[f"{LAYER}.lora_B"] @ wide[f"{LAYER}.lora_A"]
    hidden = np.tanh(x @ weight.T + wide[f"{LAYER}.bias"])
    logits = hidden @ wide["task_head.weight"].T + wide["task_head.bias"]
    log_p = logits - logits.max(1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(1, keepdims=True))
    labels = batch["labels"]
    counted = labels != -100
    hot = np.eye(logits.shape[1])[np.where(counted, labels, 0)]
    d_logits = (np.exp(log_p) - hot) * counted[:, None]
    d_pre = d_logits @ wide["task_head.weight"] * (1 - hidden**2)
    d_weight = d_pre.T @ x
    results: Arrays = {
        "loss_sum": np.asarray(-(hot * log_p).sum(1) @ counted),
        "count": np.asarray(counted.sum()),
        "correct": np.asarray((counted & (logits.argmax(1) == labels)).sum()),
        "logits": logits,
        "grad.task_head.weight": d_logits.T @ hidden,
        "grad.task_head.bias": d_logits.sum(0),
    }
    if f"{LAYER}.H" in params:
        d_G = np.einsum("hjm,mn,hkn->hjk", Bt, d_weight, A)
        results[f"grad.{LAYER}.H"] = s[:, None, None] * d_G
        results[f"grad.{LAYER}.s"] = (H * d_G).sum((1, 2))
    elif f"{LAYER}.lora_A" in params:
        results[f"grad.{LAYER}.lora_A"] = scale * wide[f"{LAYER}.lora_B"].T @ d_weight
        results[f"grad.{LAYER}.lora_B"] = scale * d_weight @ wide[f"{LAYER}.lora_A"].T
    return results


def _normal(generator: np.random.Generator, shape: tuple[int, ...], std: float) -> NDArray[Any]:
    return (generator.standard_normal(shape) * std).astype(np.float32)


def _base(sizes: TinySizes, method: Method, generator: np.random.Generator) -> Arrays:
    n = m = sizes.width
    base = {
        "embedding.weight": _normal(generator, (sizes.vocabulary, n), 1.0),
        f"{LAYER}.weight": _normal(generator, (m, n), n**-0.5),
        f"{LAYER}.bias": _normal(generator, (m,), 0.1),
    }
    if method == "ravan":
        base[f"{LAYER}.A"] = _normal(generator, (sizes.heads, sizes.rank, n), n**-0.5)
        base[f"{LAYER}.Bt"] = _normal(generator, (sizes.heads, sizes.rank, m), m**-0.5)
    return base


def _heads(sizes: TinySizes, method: Method, generator: np.random.Generator) -> Arrays:
    h, r, m, n = sizes.heads, sizes.rank, sizes.width, sizes.width
    heads: Arrays = {}
    if method == "ravan":
        heads[f"{LAYER}.H"] = np.zeros((h, r, r), np.float32)
        heads[f"{LAYER}.s"] = np.ones(h, np.float32)
    elif method == "fedit":
        bound = n**-0.5
        heads[f"{LAYER}.lora_A"] = generator.uniform(-bound, bound, (r, n)).astype(np.float32)
        heads[f"{LAYER}.lora_B"] = np.zeros((m, r), np.float32)
    heads["task_head.weight"] = _normal(generator, (sizes.labels, m), m**-0.5)
    heads["task_head.bias"] = np.zeros(sizes.labels, np.float32)
    return heads


def _table(heads: Arrays) -> tuple[TensorEntry, ...]:
    roles = {
        "H": Role.CORE, "s": Role.SCALE, "lora_A": Role.LORA_A, "lora_B": Role.LORA_B,
    }  # fmt: skip
    table = []
    for name, array in heads.items():
        role = roles.get(name.rpartition(".")[2], Role.TASK_HEAD)
        layer = None if role is Role.TASK_HEAD else LAYER
        table.append(TensorEntry(name=name, role=role, shape=array.shape, layer=layer))
    return tuple(table)


def _bases(base: Arrays) -> tuple[Basis, ...]:
    roles = {f"{LAYER}.A": Role.BASIS_A, f"{LAYER}.Bt": Role.BASIS_B}
    return tuple(
        Basis(name=name, layer=LAYER, role=roles[name], shape=array.shape)
        for name, array in base.items()
        if name in roles
    )


def _layers(sizes: TinySizes, method: Method) -> tuple[Layer, ...]:
    if method == "head-only":
        return ()
    heads = sizes.heads if method == "ravan" else 1
    n = sizes.width
    return (Layer(name=LAYER, outputs=n, inputs=n, heads=heads, rank=sizes.rank),)


def _settings(sizes: TinySizes, method: Method, seed: int) -> MethodSettings:
    if method == "ravan":
        return MethodSettings(
            name="ravan",
            seed=seed,
            targets=("dense",),
            heads=sizes.heads,
            rank=sizes.rank,
            init="random-normal",
        )
    if method == "fedit":
        return MethodSettings(
            name="fedit", seed=seed, targets=("dense",), rank=sizes.rank, alpha=16.0
        )
    return MethodSettings(name="head-only", seed=seed)


def _interface(
    sizes: TinySizes, table: tuple[TensorEntry, ...], bases: tuple[Basis, ...]
) -> tuple[tuple[GraphTensor, ...], dict[str, tuple[GraphTensor, ...]]]:
    trainable = []
    for entry in table:
        if entry.role is Role.CORE:
            shape: tuple[int | str, ...] = ("heads", *entry.shape[1:])
            trainable.append(GraphTensor(name=f"{entry.layer}.G", dtype="float32", shape=shape))
        elif entry.role is not Role.SCALE:
            trainable.append(GraphTensor(name=entry.name, dtype="float32", shape=entry.shape))
    batch = [
        GraphTensor(name="input_ids", dtype="int64", shape=("batch", "length")),
        GraphTensor(name="attention_mask", dtype="int64", shape=("batch", "length")),
        GraphTensor(name="labels", dtype="int64", shape=("batch",)),
    ]
    fed = [
        GraphTensor(name=basis.name, dtype="float32", shape=("heads", *basis.shape[1:]))
        for basis in bases
    ]
    sums = (
        GraphTensor(name="loss_sum", dtype="float32", shape=()),
        GraphTensor(name="count", dtype="int64", shape=()),
        GraphTensor(name="correct", dtype="int64", shape=()),
    )
    gradients = tuple(
        GraphTensor(name=f"grad.{tensor.name}", dtype="float32", shape=tensor.shape)
        for tensor in trainable
    )
    logits = GraphTensor(name="logits", dtype="float32", shape=("batch", sizes.labels))
    return (*batch, *trainable, *fed), {"step": (*sums, *gradients), "eval": (*sums, logits)}


def _tokenizer(sizes: TinySizes) -> bytes:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[PAD]": 0, "[UNK]": 1}
    words |= {f"w{index}": index + 2 for index in range(sizes.vocabulary - 2)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    text: str = tokenizer.to_str(pretty=True)
    return text.encode()


def _conformance(
    writer: ArtifactWriter,
    sizes: TinySizes,
    base: Arrays,
    heads: Arrays,
    scale: float,
    generator: np.random.Generator,
) -> ConformanceCase:
    """Store one batch at random parameters that move the loss, and what the reference says."""
    batch = tiny_step_batch(6, 9, sizes=sizes, seed=1)
    params = {name: array + _normal(generator, array.shape, 0.3) for name, array in heads.items()}
    found = reference(base, params, batch, scale)
    start = reference(base, heads, batch, scale)["loss_sum"]
    stored: Arrays = dict(batch) | {f"param.{name}": array for name, array in params.items()}
    stored["loss_sum"] = found["loss_sum"].astype(np.float32)
    for name in params:
        stored[f"grad.{name}"] = found[f"grad.{name}"].astype(np.float32)
    writer.add_tensors(
        "conformance.safetensors", {f"first.{name}": array for name, array in stored.items()}
    )
    return ConformanceCase(
        name="first",
        batch=batch["input_ids"].shape,
        loss=float(found["loss_sum"]),
        loss_move=float(abs(found["loss_sum"] - start) / abs(start)),
        worst_error=1e-7,
        worst_tensor="loss_sum",
    )
