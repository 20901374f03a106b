"""Text classification: cross entropy of [batch, labels] logits, summed over labelled rows."""

from __future__ import annotations

from dataclasses import dataclass

from ravan_export.graph import Builder, Value
from ravan_export.graph.value import BOOL, FLOAT, INT64

__all__ = ["IGNORED", "Loss", "TextClassification"]

IGNORED = -100
"""The label of a row that counts nothing."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What a task makes of the logits.

    Args:
        outputs: ``loss_sum`` and ``count``, then the metrics, all scalars.
        gradient: Of ``loss_sum`` with respect to the logits.
    """

    outputs: dict[str, Value]
    gradient: Value


class TextClassification:
    """One label for each row."""

    name = "text-classification"

    def inputs(self, builder: Builder) -> dict[str, Value]:
        """Inputs of the batch that only the loss reads."""
        return {"labels": builder.input("labels", ("batch",), INT64)}

    def loss(self, builder: Builder, logits: Value, inputs: dict[str, Value]) -> Loss:
        """The sum over rows with a label of -log softmax(logits)[label]; d logits = p - onehot."""
        b = builder
        labels = inputs["labels"]
        rows, classes = logits.shape
        ignored = b.binary("Equal", labels, b.reshape(b.constant([IGNORED]), ()), BOOL)
        kept = b.unary("Not", ignored)
        zero = b.reshape(b.constant([0]), ())
        label = b.reshape(b.where(kept, labels, zero), (rows, 1))
        weight = b.cast(kept, FLOAT)

        logp = b.op("LogSoftmax", [b.name(logits)], logits.shape, axis=-1)
        picked = b.op("GatherElements", [logp.name, label.name], (rows, 1), axis=1)
        weighted = b.mul(b.reshape(picked, (rows,)), weight)
        loss_sum = b.reduce("ReduceSum", weighted, (0,), keep=False).times(-1.0)
        count = b.reduce("ReduceSum", b.cast(kept, INT64), (0,), keep=False)
        best = b.op("ArgMax", [b.name(logits)], (rows,), INT64, axis=-1, keepdims=0)
        hit = b.binary("And", b.binary("Equal", best, labels, BOOL), kept, BOOL)
        correct = b.reduce("ReduceSum", b.cast(hit, INT64), (0,), keep=False)

        numbers = b.constant([*range(int(classes))])
        onehot = b.cast(b.binary("Equal", numbers, label, BOOL), FLOAT)
        gap = b.sub(b.unary("Exp", logp), onehot)
        gradient = b.mul(gap, b.reshape(weight, (rows, 1)))
        return Loss({"loss_sum": loss_sum, "count": count, "correct": correct}, gradient)
