"""A classifier small enough to differentiate by hand, behind the Step protocol: no runtime needed.

x = mean of embeddings of the tokens        y = W x + sum_i B_i G_i A_i x
logits = y weight^T + bias                  loss_sum = sum of cross entropies
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.manifest import Layer, Role, TensorEntry
from ravan_edge.closing import Closing
from ravan_edge.data import TokenisedDataset
from ravan_edge.errors import NumericsError
from ravan_edge.methods import HeadIndices, ParameterLayout, Plain, Ravan, Vector, ravan_table
from ravan_edge.plans.step import Evaluation, StepResult

VOCABULARY, INPUTS, OUTPUTS, LABELS = 40, 8, 6, 3
LAYER = "encoder.query"


def ravan_method(heads: int = 4, rank: int = 2) -> Ravan:
    layer = Layer(name=LAYER, outputs=OUTPUTS, inputs=INPUTS, heads=heads, rank=rank)
    return Ravan(ParameterLayout.from_table([*ravan_table([layer]), *task_head()]))


def head_only_method() -> Plain:
    return Plain(ParameterLayout.from_table(task_head()))


def task_head() -> list[TensorEntry]:
    return [
        TensorEntry(name="task_head.weight", role=Role.TASK_HEAD, shape=(LABELS, OUTPUTS)),
        TensorEntry(name="task_head.bias", role=Role.TASK_HEAD, shape=(LABELS,)),
    ]


def random_heads(method: Ravan | Plain, seed: int = 0, scale: float = 0.3) -> Vector:
    """Folded heads: s = 1, everything else normal."""
    heads = np.random.default_rng(seed).normal(scale=scale, size=method.layout.size)
    heads = heads.astype(np.float32)
    heads[method.layout.mask(Role.SCALE)] = 1.0
    return heads


def dataset(rows: int = 60, seed: int = 0) -> TokenisedDataset:
    """Learnable: the label is the most frequent third of the vocabulary."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 9, size=rows)
    labels = random.integers(0, LABELS, size=rows)
    ids = [
        np.where(
            random.random(length) < 0.8,
            1 + label + LABELS * random.integers(0, 13, size=length),
            random.integers(1, VOCABULARY, size=length),
        )
        for length, label in zip(lengths, labels, strict=True)
    ]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenisedDataset(
        np.concatenate(ids).astype(np.int32), offsets, labels.astype(np.int32), None, 8
    )


class LinearStep(Closing):
    """The model above; ``poison_after`` steps its gradients turn NaN."""

    def __init__(self, heads: int = 4, rank: int = 2, poison_after: int | None = None) -> None:
        random = np.random.default_rng(1)
        self.embeddings = random.normal(size=(VOCABULARY, INPUTS))
        self.W = random.normal(size=(OUTPUTS, INPUTS)) / np.sqrt(INPUTS)
        self.A = random.normal(size=(heads, rank, INPUTS)) / np.sqrt(INPUTS)
        self.B = random.normal(size=(heads, OUTPUTS, rank)) / np.sqrt(OUTPUTS)
        self.running = np.arange(heads)
        self.poison_after = poison_after
        self.calls: list[int] = []

    def use_heads(self, running: Mapping[str, HeadIndices]) -> None:
        if LAYER in running:
            self.running = running[LAYER]

    def _features(self, batch: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float64]:
        mask = batch["attention_mask"][:, :, None]
        return (self.embeddings[batch["input_ids"]] * mask).sum(axis=1) / mask.sum(axis=1)

    def _forward(
        self, batch: Mapping[str, NDArray[np.int64]], trainables: Mapping[str, Vector]
    ) -> tuple[NDArray[np.float64], ...]:
        x = self._features(batch)
        y = x @ self.W.T
        if f"{LAYER}.G" in trainables:
            A, B = self.A[self.running], self.B[self.running]
            y = y + np.einsum("kmr,krq,kqn,bn->bm", B, trainables[f"{LAYER}.G"], A, x)
        logits = y @ trainables["task_head.weight"].T + trainables["task_head.bias"]
        logits = logits - logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return x, y, logits, log_p

    def train(
        self, batch: Mapping[str, NDArray[np.int64]], trainables: Mapping[str, Vector]
    ) -> StepResult:
        self.calls.append(len(batch["labels"]))
        x, y, logits, log_p = self._forward(batch, trainables)
        labels = batch["labels"]
        counts = labels != -100
        rows = np.flatnonzero(counts)
        dlogits = np.exp(log_p)
        dlogits[rows, labels[rows]] -= 1.0
        dlogits[~counts] = 0.0
        dy = dlogits @ trainables["task_head.weight"]
        gradients = {"task_head.weight": dlogits.T @ y, "task_head.bias": dlogits.sum(axis=0)}
        if f"{LAYER}.G" in trainables:
            A, B = self.A[self.running], self.B[self.running]
            gradients[f"{LAYER}.G"] = np.einsum("kmr,bm,bn,kqn->krq", B, dy, x, A)
        if self.poison_after is not None and len(self.calls) > self.poison_after:
            gradients["task_head.bias"][0] = np.nan
        return StepResult(
            loss_sum=float(-log_p[rows, labels[rows]].sum()),
            count=len(rows),
            metrics={"correct": float((logits.argmax(axis=1)[rows] == labels[rows]).sum())},
            gradients={name: value.astype(np.float32) for name, value in gradients.items()},
        )

    def evaluate(
        self, batch: Mapping[str, NDArray[np.int64]], trainables: Mapping[str, Vector]
    ) -> Evaluation:
        if self.poison_after == 0:
            raise NumericsError("poisoned")
        _, _, logits, log_p = self._forward(batch, trainables)
        labels = batch["labels"]
        rows = np.flatnonzero(labels != -100)
        return Evaluation(
            loss_sum=float(-log_p[rows, labels[rows]].sum()),
            count=len(rows),
            metrics={"correct": float((logits.argmax(axis=1)[rows] == labels[rows]).sum())},
            logits=logits.astype(np.float32),
        )

    def close(self) -> None:
        """Nothing to close."""
