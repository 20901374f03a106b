"""The processes that bench/step.py and bench/plans.py time: the artifact's step, eager torch, the floor.

Each runs alone in a process of its own and answers one JSON line for each line it is given::

    load KEYWORDS        build what is to be timed
    time STEPS           run that many steps; {"seconds": of one step, "loss": of the last}
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Product", "Shape", "batch_of", "floor_products"]

Array = NDArray[Any]
LABELS = 77


@dataclass(frozen=True, slots=True)
class Shape:
    """What the step is measured on: sizes of a model (by default MiniLM-L6's), a batch, the adapters.

    Args:
        rows: Of the batch.
        length: Tokens of a row; for images the patches and what stands before them.
        width: Of the model; ``hidden``: of the feed-forward layer, which is ``gated`` or not.
        attention_heads: Of queries; ``key_heads``: of keys and values, None: as many.
        heads, rank: Of Ravan.
        task: As the manifest names it.
        vocabulary: Rows of the vocabulary matrix that the loss multiplies with; 0: none.
        image: Height and width of an image; 0: texts.
    """

    rows: int
    length: int
    width: int = 384
    hidden: int = 1536
    layers: int = 6
    attention_heads: int = 12
    heads: int = 4
    rank: int = 39
    task: str = "text-classification"
    gated: bool = False
    key_heads: int | None = None
    vocabulary: int = 0
    image: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of the batch."""
        return self.rows * self.length


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product [stack, rows, inner] x [stack, inner, columns], and how often a step has it."""

    name: str
    stack: int
    rows: int
    inner: int
    columns: int
    times: int

    @property
    def flops(self) -> int:
        """Multiplications and additions of one."""
        return 2 * self.stack * self.rows * self.inner * self.columns


def floor_products(shape: Shape) -> list[Product]:
    """The products that a step of LoRA-like adapters on query and value cannot do without.

    Forward without adapters; dX wherever something below trains (not into the first layer's query, key
    and value, nor the gradient of its keys); attention; adapters as factored, x -> A -> G -> B, with
    dG of every head. A causal mask saves nothing here. Whatever the implementation does is not asked.
    """
    t, d, f, n = shape.tokens, shape.width, shape.hidden, shape.layers
    stack, s, w = shape.rows * shape.attention_heads, shape.length, d // shape.attention_heads
    h, r = shape.heads, shape.rank
    narrow = w * (shape.key_heads or shape.attention_heads)
    products = [
        Product("queries and outputs", 1, t, d, d, 2 * n + 2 * n - 1),
        Product("keys and values", 1, t, d, narrow, 2 * n + 2 * n - 2),
        Product("feed-forward up", 1, t, d, f, (2 if shape.gated else 1) * 2 * n),
        Product("feed-forward down", 1, t, f, d, 2 * n),
        Product("scores", stack, s, w, s, 2 * n),
        Product("weighted values", stack, s, s, w, 4 * n - 1),
        Product("adapters in", 1, t, d, h * r, 4 * n),
        Product("adapters out, queries", 1, t, h * r, d, 2 * n - 1),
        Product("adapters out, values", 1, t, h * r, narrow, 2 * n - 1),
        Product("cores", h, t, r, r, 4 * n - 2),
        Product("core gradients", h, r, t, r, 2 * n),
    ]
    if shape.vocabulary:
        products.append(Product("vocabulary", 1, t, d, shape.vocabulary, 1))
        products.append(Product("vocabulary, back", 1, t, shape.vocabulary, d, 1))
    return products


def batch_of(shape: Shape) -> dict[str, Array]:
    """Random tokens without padding, or random images."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, LABELS, shape.rows)
    if shape.image:
        size = (shape.rows, 3, shape.image, shape.image)
        return {"pixel_values": rng.standard_normal(size, np.float32), "labels": labels}
    ids = rng.integers(1000, 30000, (shape.rows, shape.length))
    mask = np.ones(ids.shape, np.int64)
    if shape.vocabulary:
        labels = ids
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class Side(Protocol):
    """Something that can be timed."""

    def step(self) -> float:
        """One step; the loss."""


class ArtifactSide:
    """A plan of the artifact, in micro-batches."""

    def __init__(
        self,
        shape: Shape,
        artifact: str,
        micro: int,
        *,
        prepack: bool,
        arena: bool,
        threads: int,
        plan: str = "whole",
    ) -> None:
        from ravan_edge.artifact.opening import open_artifact
        from ravan_edge.methods.registry import method_for
        from ravan_edge.plans.registry import open_step
        from ravan_edge.plans.step import RuntimeSettings

        opened = open_artifact(Path(artifact), check_digests=False)
        settings = RuntimeSettings(threads=threads, arena=arena, prepack=prepack)
        self._step = open_step(opened, plan, settings)
        method = method_for(opened.manifest)
        heads = method.start_round(method.layout.pack(opened.initial_heads()))
        heads += 0.01 * np.random.default_rng(1).standard_normal(heads.size).astype(np.float32)
        training = method.training(heads, None)
        self._step.use_heads(training.running)
        self._inputs = method.to_graph(heads, training)
        whole = batch_of(shape)
        self._parts = [
            {name: array[start : start + micro] for name, array in whole.items()}
            for start in range(0, shape.rows, micro)
        ]

    @property
    def process_id(self) -> int:
        """Of the process that computes: this one, or the plan's own."""
        return getattr(self._step, "process_id", None) or os.getpid()

    def step(self) -> float:
        """One step, gradients of micro-batches summed."""
        loss = 0.0
        total: dict[str, Array] = {}
        for part in self._parts:
            result = self._step.train(part, self._inputs)
            loss += result.loss_sum
            if not total:
                total = {name: np.array(item) for name, item in result.gradients.items()}
            else:
                for name, item in result.gradients.items():
                    total[name] += item
        return loss


class EagerSide:
    """Torch eager with PEFT LoRA of as many trained numbers: forward, backward, no optimiser."""

    def __init__(
        self, shape: Shape, model: str, artifact: str, lora_rank: int, threads: int
    ) -> None:
        import torch
        import transformers
        from peft import LoraConfig, get_peft_model

        torch.set_num_threads(threads)
        manifest = json.loads((Path(artifact) / "manifest.json").read_text())
        self._pooled = (Path(model) / "modules.json").exists()
        kinds = {
            "text-classification": "AutoModelForSequenceClassification",
            "image-classification": "AutoModelForImageClassification",
            "causal-lm": "AutoModelForCausalLM",
        }
        kind = "AutoModel" if self._pooled else kinds[shape.task]
        encoder = getattr(transformers, kind).from_pretrained(model)
        config = LoraConfig(
            r=lora_rank, lora_alpha=2 * lora_rank, lora_dropout=0.0,
            target_modules=[layer["name"] for layer in manifest["layers"]],
        )  # fmt: skip
        self._torch = torch
        self._model = get_peft_model(encoder, config).eval()
        trained = {"classifier", "pooler"} if not self._pooled else set()
        for name, parameter in self._model.named_parameters():
            if trained & set(name.split(".")):
                parameter.requires_grad_()
        self._head = torch.nn.Linear(shape.width, LABELS) if self._pooled else None
        whole = {name: torch.from_numpy(array) for name, array in batch_of(shape).items()}
        self._labels = whole.pop("labels")
        self._batch = whole

    def step(self) -> float:
        """One step."""
        torch = self._torch
        self._model.zero_grad(set_to_none=True)
        output = self._model(**self._batch)
        if self._head is not None:
            self._head.zero_grad(set_to_none=True)
            mask = self._batch["attention_mask"].unsqueeze(-1)
            pooled = (output.last_hidden_state * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            features = torch.nn.functional.normalize(pooled) * pooled.shape[1] ** 0.5
            logits, labels = self._head(features), self._labels
        elif self._labels.ndim > 1:
            logits, labels = output.logits[:, :-1].flatten(0, 1), self._labels[:, 1:].flatten()
        else:
            logits, labels = output.logits, self._labels
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        loss.backward()
        return float(loss.detach())


class FloorSide:
    """The floor's products, each at the best rate of torch, numpy and onnxruntime."""

    def __init__(self, shape: Shape, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.best: dict[str, tuple[str, float]] = {}
        self._products = floor_products(shape)
        self._runs = {item.name: _ways(item, threads) for item in self._products}
        for ways in self._runs.values():
            for run in ways.values():
                run()

    def step(self) -> float:
        """Measure every product in every way once more; seconds of the whole step at the best rates."""
        total = 0.0
        for item in self._products:
            seconds = {name: _seconds(run) for name, run in self._runs[item.name].items()}
            way = min(seconds, key=lambda name: seconds[name])
            self.best[item.name] = way, item.flops / seconds[way] / 1e9
            total += item.times * seconds[way]
        return total


def _seconds(run: Callable[[], object]) -> float:
    """Median seconds of at least 5 runs in at least 20 ms.

    Libraries keep threads spinning for a while after a call; a short sleep and a warm-up leave the
    cores to the library that is measured.
    """
    time.sleep(0.005)
    run()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < 0.02:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _ways(item: Product, threads: int) -> dict[str, Callable[[], object]]:
    """One product in torch, numpy and onnxruntime (row-major, and with the right side transposed)."""
    import onnxruntime
    import torch
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(2)
    stack = (item.stack,) if item.stack > 1 else ()
    x = rng.standard_normal((*stack, item.rows, item.inner), np.float32)
    w = rng.standard_normal((*stack, item.inner, item.columns), np.float32)
    tx, tw, out = (
        torch.from_numpy(x),
        torch.from_numpy(w),
        np.empty((*stack, item.rows, item.columns), np.float32),
    )
    tout = torch.from_numpy(out)

    def session(
        kind: str, right: Array, *, frozen: bool = False, **attributes: int
    ) -> Callable[[], object]:
        node = helper.make_node(kind, ["x", "w"], ["y"])
        node.attribute.extend(
            helper.make_attribute(name, item) for name, item in attributes.items()
        )
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * x.ndim)
            for name in ("x" if frozen else "xw")
        ]
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * x.ndim)
        constants = [numpy_helper.from_array(right, "w")] if frozen else []  # prepacked when loaded
        graph = helper.make_graph([node], "product", inputs, [output], constants)
        opsets = [helper.make_opsetid("", 18)]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")
        made = onnxruntime.InferenceSession(
            helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )
        binding = made.io_binding()
        binding.bind_cpu_input("x", x)
        if not frozen:
            binding.bind_cpu_input("w", right)
        binding.bind_output("y", "cpu", 0, np.float32, out.shape, out.ctypes.data)
        return lambda: made.run_with_iobinding(binding)

    ways: dict[str, Callable[[], object]] = {
        "torch": lambda: torch.matmul(tx, tw, out=tout),
        "numpy": lambda: np.matmul(x, w, out=out),
        "onnxruntime": session("MatMul", w),
    }
    if not stack:
        ways["onnxruntime, transposed"] = session("Gemm", np.ascontiguousarray(w.T), transB=1)
        ways["onnxruntime, prepacked"] = session("MatMul", w, frozen=True)
    return ways


def _build(kind: str, shape: Shape, keywords: Mapping[str, Any]) -> Side:
    if kind == "artifact":
        return ArtifactSide(shape, **keywords)
    if kind == "eager":
        return EagerSide(shape, **keywords)
    return FloorSide(shape, **keywords)


def main() -> None:
    """Serve one side over standard input and output."""
    kind, sizes = sys.argv[1], json.loads(sys.argv[2])
    shape = Shape(**sizes)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with answers
    if kind == "eager":
        import peft  # noqa: F401
        import torch
        import transformers

        torch.set_grad_enabled(True)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
    elif kind == "artifact":
        import onnxruntime  # noqa: F401

        import ravan_edge.plans.whole  # noqa: F401
    side: Side | None = None

    def answer(document: dict[str, Any]) -> None:
        answers.write(json.dumps(document) + "\n")
        answers.flush()

    answer({"ready": os.getpid()})
    for line in sys.stdin:
        verb, _, rest = line.strip().partition(" ")
        if verb == "load":
            side = _build(kind, shape, json.loads(rest))
            answer({"loaded": True, "process": getattr(side, "process_id", os.getpid())})
        elif side is not None:
            start, value = time.perf_counter(), 0.0
            steps = int(rest)
            for _ in range(steps):
                value = side.step()
            seconds = (time.perf_counter() - start) / steps
            best = side.best if isinstance(side, FloorSide) else {}
            answer({"seconds": value if best else seconds, "loss": value, "best": best})


if __name__ == "__main__":
    main()
