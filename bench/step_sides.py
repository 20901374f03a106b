"""The processes that bench/step.py and bench/plans.py time: the artifact's step and what stands beside it.

Each runs alone in a process of its own and answers one JSON line for each line it is given::

    load KEYWORDS        build what is to be timed
    time STEPS           run that many steps; {"seconds": of one step, "loss": of the last}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

__all__ = ["ArtifactSide", "EagerSide", "Shape", "batch_of"]

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
        self.model = get_peft_model(encoder, config).eval()
        trained = {"classifier", "pooler"} if not self._pooled else set()
        for name, parameter in self.model.named_parameters():
            if trained & set(name.split(".")):
                parameter.requires_grad_()
        self.head = torch.nn.Linear(shape.width, LABELS) if self._pooled else None
        whole = {name: torch.from_numpy(array) for name, array in batch_of(shape).items()}
        self._labels = whole.pop("labels")
        self.batch = whole

    def logits(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Scores of the labels, or of the next words."""
        output = self.model(**batch)
        if self.head is None:
            return cast("torch.Tensor", output.logits)
        mask = batch["attention_mask"].unsqueeze(-1)
        pooled = (output.last_hidden_state * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        features = self._torch.nn.functional.normalize(pooled) * pooled.shape[1] ** 0.5
        return cast("torch.Tensor", self.head(features))

    def step(self) -> float:
        """One step."""
        torch = self._torch
        self.model.zero_grad(set_to_none=True)
        if self.head is not None:
            self.head.zero_grad(set_to_none=True)
        logits, labels = self.logits(self.batch), self._labels
        if labels.ndim > 1:
            logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        loss.backward()
        return float(loss.detach())


def _build(kind: str, shape: Shape, keywords: Mapping[str, Any]) -> Side:
    if kind == "artifact":
        return ArtifactSide(shape, **keywords)
    if kind == "eager":
        return EagerSide(shape, **keywords)
    if kind == "native":
        from bench.native_graph import NativeSide

        return NativeSide(shape, **keywords)
    from bench.step_floor import FloorSide

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
    elif kind in {"artifact", "native"}:
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
            best = getattr(side, "best", {})  # of the floor
            answer({"seconds": value if best else seconds, "loss": value, "best": best})


if __name__ == "__main__":
    main()
