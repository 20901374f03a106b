"""Cross entropy of rows, as nodes of the graph: the loss of every task with a label map."""

from __future__ import annotations

from ravan_export.graph import Builder, Value
from ravan_export.graph.value import BOOL, FLOAT, INT64
from ravan_export.tasks.task import IGNORED, Loss

__all__ = ["cross_entropy"]


def cross_entropy(builder: Builder, logits: Value, labels: Value) -> Loss:
    """The sum over rows with a label of -log softmax(logits)[label]; d logits = p - onehot.

    Args:
        builder: The graph.
        logits: [rows, classes].
        labels: [rows], ``IGNORED`` for a row that counts nothing.
    """
    b = builder
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
