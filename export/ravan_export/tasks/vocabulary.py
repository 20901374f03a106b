"""Cross entropy over a vocabulary, without ever holding [tokens, vocabulary] numbers.

Only positions whose label counts are looked at, in a fixed number of slices. Each slice computes its
logits, its loss and its gradient and lets them go before the next one begins: where the next slice starts
is computed from the sizes of what the slice before it returned, so that no runtime can reorder them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ravan_export.graph import Builder, Value
from ravan_export.graph.value import BOOL, FLOAT, INT64
from ravan_export.tasks.task import IGNORED, Loss

__all__ = ["VocabularyLoss", "next_tokens"]

_COUNTED = "counted"
"""The dimension of positions whose label counts."""


def next_tokens(builder: Builder, labels: Value) -> Value:
    """``labels`` [batch, length] moved one to the left, as Hugging Face shifts them.

    The last position of a row predicts nothing.
    """
    b = builder
    ends = [b.constant([1]).name, b.constant([2**63 - 1]).name, b.constant([1]).name]
    batch, length = labels.shape
    moved = b.op("Slice", [b.name(labels), *ends], (batch, f"{length} - 1"), INT64)
    ignored = b.reshape(b.constant([IGNORED]), ())
    names = [moved.name, b.constant([0, 1]).name, ignored.name, b.constant([1]).name]
    return b.op("Pad", names, labels.shape, INT64, mode="constant")


@dataclass(frozen=True, slots=True)
class _Slice:
    """Results of some of the counted positions.

    Args:
        losses: [rows], negative (log probabilities of the labels).
        hits: bool [rows].
        gradient: [rows, width]; None for an evaluation.
    """

    losses: Value
    hits: Value
    gradient: Value | None


@dataclass(frozen=True, slots=True)
class VocabularyLoss:
    """The loss of a matrix product with a frozen vocabulary matrix.

    Args:
        builder: The graph.
        frozen: ``vocabulary`` [words, width]; where the model has them ``bias`` [words] and
            ``softcap`` [], c of logits c tanh(l / c).
        slices: How many.
        gradient: Whether the gradient is wanted.
    """

    builder: Builder
    frozen: Mapping[str, Value]
    slices: int
    gradient: bool = True

    def __call__(self, hidden: Value, targets: Value) -> Loss:
        """Sum over counted positions of -log softmax(h W^T + b)[target].

        Args:
            hidden: [batch, length, width].
            targets: int64 [batch, length]; ``IGNORED`` counts nothing.

        Returns:
            ``loss_sum``, ``count``, ``correct`` (the likeliest word is the target), and the gradient
            with respect to ``hidden`` (for an evaluation: ``hidden`` itself, unused).
        """
        b = self.builder
        flat = b.reshape(targets, ("tokens",))
        ignored = b.binary("Equal", flat, b.reshape(b.constant([IGNORED]), ()), BOOL)
        kept = b.unary("Not", ignored)
        if b.sizes:
            return self._at_all_positions(hidden, flat, kept)
        places = b.reshape(b.op("NonZero", [kept.name], (1, _COUNTED), INT64), (_COUNTED,))
        words = b.op("Gather", [b.name(flat), places.name], (_COUNTED,), INT64, axis=0)
        rows = b.settled(b.as_rows(hidden))
        h = b.op("Gather", [rows.name, places.name], (_COUNTED, hidden.shape[-1]), axis=0)
        total = b.op("Shape", [places.name], (1,), INT64)
        parts = self._slices(h, words, total)
        losses = b.op("Concat", [part.losses.name for part in parts], (_COUNTED,), axis=0)
        hits = b.op("Concat", [part.hits.name for part in parts], (_COUNTED,), BOOL, axis=0)
        outputs = {
            "loss_sum": b.reduce("ReduceSum", losses, (0,), keep=False).times(-1.0),
            "count": b.reshape(total, ()),
            "correct": b.reduce("ReduceSum", b.cast(hits, INT64), (0,), keep=False),
        }
        if not self.gradient:
            return Loss(outputs, hidden)
        found = [part.gradient.name for part in parts if part.gradient is not None]
        return Loss(outputs, self._put_back(found, kept, total, hidden))

    def _at_all_positions(self, hidden: Value, flat: Value, kept: Value) -> Loss:
        """The same where sizes are fixed: slices of all positions, and what does not count is zeroed.

        Such a runtime computes in the order of the graph, so nothing holds slices back.
        """
        b, width = self.builder, hidden.shape[-1]
        total = math.prod(b.sizes[str(dim)] for dim in hidden.shape[:-1])
        rows = b.settled(b.as_rows(hidden))
        words = b.where(kept, flat, b.reshape(b.constant([0]), ()))
        weights = b.cast(kept, FLOAT)
        losses, hits, gradients = [], [], []
        for number in range(self.slices):
            start, end = total * number // self.slices, total * (number + 1) // self.slices
            if start == end:
                continue
            ends = [b.constant([start]).name, b.constant([end]).name, b.constant([0]).name]
            size = end - start
            weight = b.op("Slice", [weights.name, *ends], (size,))
            part = self._slice(
                b.op("Slice", [rows.name, *ends], (size, width)),
                b.op("Slice", [b.name(words), *ends], (size,), INT64),
            )
            losses.append(b.name(b.mul(part.losses, weight)))
            hits.append(b.name(b.mul(b.cast(part.hits, FLOAT), weight)))
            if part.gradient is not None:
                gradients.append(b.name(b.mul(part.gradient, b.reshape(weight, (size, 1)))))

        def summed(names: list[str]) -> Value:
            joined = b.op("Concat", names, (total,), axis=0)
            return b.reduce("ReduceSum", joined, (0,), keep=False)

        outputs = {
            "loss_sum": summed(losses).times(-1.0),
            "count": b.reduce("ReduceSum", b.cast(kept, INT64), (0,), keep=False),
            "correct": b.cast(summed(hits), INT64),
        }
        if not self.gradient:
            return Loss(outputs, hidden)
        return Loss(
            outputs, b.reshape(b.op("Concat", gradients, (total, width), axis=0), hidden.shape)
        )

    def _slices(self, h: Value, words: Value, total: Value) -> list[_Slice]:
        b, width = self.builder, h.shape[-1]
        # With fewer positions than slices some would be empty, which not every runtime's operators
        # stand: those compute on this row, and nothing of it is kept.
        spare = b.expand(b.reshape(b.constant(0.0), (1, 1)), (1, width))
        h = b.op("Concat", [h.name, spare.name], (f"{_COUNTED} + 1", width), axis=0)
        word = [words.name, b.constant([0]).name]
        words = b.op("Concat", word, (f"{_COUNTED} + 1",), INT64, axis=0)
        parts: list[_Slice] = []
        start, one = b.constant([0]), b.constant([1])
        for number in range(self.slices):
            share = b.mul(total, b.constant([number + 1]))
            end = b.op("Div", [share.name, b.constant([self.slices]).name], (1,), INT64)
            size = b.sub(end, start)
            empty = b.binary("Equal", start, end, BOOL)
            first = b.where(empty, total, start)
            behind = b.where(empty, b.add(total, one), end)
            ends = [first.name, behind.name, b.constant([0]).name]
            rows = f"slice {number}"
            cut = b.op("Slice", [h.name, *ends], (rows, width))
            target = b.op("Slice", [words.name, *ends], (rows,), INT64)
            parts.append(self._kept(self._slice(cut, target), size))
            start = self._behind(start, parts[-1])
        return parts

    def _kept(self, part: _Slice, size: Value) -> _Slice:
        """The first ``size`` rows: all of them, or none of the spare one."""
        b = self.builder
        ends = [b.constant([0]).name, size.name, b.constant([0]).name]

        def head(value: Value) -> Value:
            return b.op("Slice", [value.name, *ends], value.shape, value.dtype)

        gradient = None if part.gradient is None else head(part.gradient)
        return _Slice(head(part.losses), head(part.hits), gradient)

    def _behind(self, start: Value, part: _Slice) -> Value:
        """The end of a slice, known only when all it returns is computed."""
        b = self.builder
        returned = [part.losses, part.hits, *([part.gradient] if part.gradient else [])]
        sizes = [
            b.op("Shape", [value.name], (1,), INT64, start=0, end=1).name for value in returned
        ]
        return b.add(start, b.op("Min", sizes, (1,), INT64))

    def _slice(self, h: Value, target: Value) -> _Slice:
        """With p = softmax(l):  dh = (p - onehot) W = p W - W[target]."""
        b, w = self.builder, self.frozen["vocabulary"]
        size = h.shape[0]
        column = b.reshape(target, (size, 1))
        logits = b.gemm(h, w, transpose_right=True)
        if "bias" in self.frozen:
            logits = b.add(logits, self.frozen["bias"])
        tangent, cap = None, self.frozen.get("softcap")
        if cap is not None:
            tangent = b.unary("Tanh", b.div(logits, cap))
            logits = b.mul(tangent, cap)
        logp = b.op("LogSoftmax", [b.name(logits)], logits.shape, axis=-1)
        picked = b.op("GatherElements", [logp.name, column.name], (size, 1), axis=1)
        best = b.op("ArgMax", [b.name(logits)], (size,), INT64, axis=-1, keepdims=0)
        hits = b.binary("Equal", best, target, BOOL)
        gradient = None
        if self.gradient:
            p = b.unary("Exp", logp)
            own = b.op("Gather", [w.name, target.name], (size, w.shape[1]), axis=0)
            if tangent is not None:
                # d tanh = 1 - tanh^2, at every word and at the target
                slope = b.sub(b.constant(1.0), b.mul(tangent, tangent))
                p = b.mul(p, slope)
                own = b.mul(
                    own, b.op("GatherElements", [slope.name, column.name], (size, 1), axis=1)
                )
            gradient = b.settled(b.sub(b.gemm(p, w), own))
        return _Slice(b.reshape(picked, (size,)), hits, gradient)

    def _put_back(self, found: list[str], kept: Value, total: Value, hidden: Value) -> Value:
        """The gradient of every position: a counted one's own, and a row of zeros for the rest."""
        b, width = self.builder, hidden.shape[-1]
        zero = b.expand(b.reshape(b.constant(0.0), (1, 1)), (1, width))
        rows = b.op("Concat", [*found, zero.name], (f"{_COUNTED} + 1", width), axis=0)
        axis = b.reshape(b.constant([0]), ())
        order = b.op("CumSum", [b.cast(kept, INT64).name, axis.name], ("tokens",), INT64)
        order = b.sub(order, b.reshape(b.constant([1]), ()))
        index = b.where(kept, order, b.reshape(total, ()))
        spread = b.op("Gather", [rows.name, index.name], ("tokens", width), axis=0)
        return b.reshape(spread, hidden.shape)
