"""What each method adds to an adapted linear layer, as nodes of the graph.

Ravan's sum can be computed in two orders with the same result and gradients: beside the layer, or
merged into the layer's matrix, which costs h r m n once per step and nothing per token. Its gradient
too has two orders. :func:`merging_pays` and :func:`whole_gradient_pays` count.
"""

from __future__ import annotations

from dataclasses import dataclass

from ravan_edge.artifact.manifest import Layer
from ravan_export.graph import Builder, Tape, Value, Var
from ravan_export.rules.linear import frozen_product

__all__ = [
    "LoraAdapter",
    "MergedRavanAdapter",
    "RavanAdapter",
    "merging_pays",
    "whole_gradient_pays",
]


@dataclass(frozen=True, slots=True)
class RavanAdapter:
    """y = x (W + sum_i B_i G_i A_i)^T with the product C = G A made once per step.

    With C_i = G_i A_i stacked to [K r, n] and B^T as [K r, m]:

        y  = x W^T + (x C^T) B^T'       dz = dy B        dC = dz^T x      dx = dy W + dz C
        dG_i = dC_i A_i^T

    Against x -> A -> G -> B this saves reordering [tokens, heads, rank] arrays four times.

    Args:
        core: G [K, r, r], trained.
        a: A [K, r, n].
        bt: B transposed, [K, r, m].
    """

    core: Var
    a: Value
    bt: Value

    def linear(self, tape: Tape, x: Var, weight: Value, stored: float) -> Var:
        """The layer's output [..., m] without its bias."""
        builder = tape.builder
        heads = self.a.shape[0]
        b = _stacked(builder, self.bt)
        c = _stacked(builder, builder.matmul(self.core.value, self.a))
        z = builder.gemm(x.value, c, transpose_right=True)
        update = builder.gemm(z, b, stored=stored)

        def d_core(dy: Value) -> Value:
            dz = builder.gemm(dy, b, transpose_right=True)
            dc = builder.gemm(dz, x.value, transpose_left=True)
            dc = builder.reshape(dc, (heads, *self.a.shape[1:]))
            return builder.matmul(dc, builder.swap(self.a))

        def d_x(dy: Value) -> Value:
            return builder.gemm(builder.gemm(dy, b, transpose_right=True), c)

        base = frozen_product(tape, x, weight, stored)
        added = tape.record(update, {self.core: d_core, x: d_x})
        return _sum(tape, base, added)


@dataclass(frozen=True, slots=True)
class MergedRavanAdapter:
    """The same function with the sum W' = W + B C made once per step.

        y = x W'^T       dx = dy W'

    and the gradient of C in the cheaper of two orders:

        dz = dy B, dC = dz^T x        or        P = dy^T x, dC = B^T P        dG_i = dC_i A_i^T

    No pass over [tokens, m] more than the layer has without adapters.

    Args:
        core: G [K, r, r], trained.
        a: A [K, r, n].
        bt: B transposed, [K, r, m].
        whole_gradient: Take the second order.
    """

    core: Var
    a: Value
    bt: Value
    whole_gradient: bool = False

    def linear(self, tape: Tape, x: Var, weight: Value, stored: float) -> Var:
        """The layer's output [..., m] without its bias."""
        if x.value.shape[1:-1] and set(x.value.shape[1:-1]) == {1}:
            # One token of a row: too few to pay for W'.
            return RavanAdapter(self.core, self.a, self.bt).linear(tape, x, weight, stored)
        builder = tape.builder
        heads = self.a.shape[0]
        b = _stacked(builder, self.bt)
        c = _stacked(builder, builder.matmul(self.core.value, self.a))
        merged = builder.gemm(b, c, transpose_left=True, plus=weight)

        def d_core(dy: Value) -> Value:
            if self.whole_gradient:
                dc = builder.gemm(b, builder.gemm(dy, x.value, transpose_left=True))
            else:
                dz = builder.gemm(dy, b, transpose_right=True)
                dc = builder.gemm(dz, x.value, transpose_left=True)
            dc = builder.reshape(dc, (heads, *self.a.shape[1:]))
            return builder.matmul(dc, builder.swap(self.a))

        y = builder.gemm(x.value, merged, transpose_right=True, stored=stored)
        return tape.record(y, {self.core: d_core, x: lambda dy: builder.gemm(dy, merged)})


def whole_gradient_pays(layer: Layer, tokens: int) -> bool:
    """Whether dG through P = dy^T x needs fewer operations than through dz = dy B.

    Through P: 2 T m n + 2 h r m n. Through dz: 2 T h r (m + n).

    >>> minilm = Layer(name="q", outputs=384, inputs=384, heads=4, rank=39)
    >>> wide = Layer(name="q", outputs=384, inputs=384, heads=4, rank=96)
    >>> [whole_gradient_pays(layer, 1024) for layer in (minilm, wide)]
    [False, True]
    """
    m, n, stacked = layer.outputs, layer.inputs, layer.heads * layer.rank
    return (tokens + stacked) * m * n < tokens * stacked * (m + n)


def merging_pays(layer: Layer, tokens: int) -> bool:
    """Whether W' = W + B C needs fewer operations at that many tokens in a step.

    Beside the layer: 2 T h r (3 n + 2 m). Merged: 2 h r m n, and the gradient of C. What both have is
    left out.

    >>> minilm = Layer(name="q", outputs=384, inputs=384, heads=4, rank=39)
    >>> [merging_pays(minilm, tokens) for tokens in (64, 512)]
    [False, True]
    """
    m, n, stacked = layer.outputs, layer.inputs, layer.heads * layer.rank
    gradient = min(tokens * stacked * (m + n), (tokens + stacked) * m * n)
    return tokens * stacked * (3 * n + 2 * m) > stacked * m * n + gradient


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """y = x (W + scale lora_B lora_A)^T, the plain LoRA of Hu et al. (2021).

    Args:
        a: lora_A [r, n], trained.
        b: lora_B [m, r], trained.
        scale: alpha / r.
    """

    a: Var
    b: Var
    scale: float

    def linear(self, tape: Tape, x: Var, weight: Value, stored: float) -> Var:
        """The layer's output [..., m] without its bias."""
        builder = tape.builder
        a, b = self.a.value, self.b.value.times(self.scale)
        z = builder.gemm(x.value, a, transpose_right=True)
        update = builder.gemm(z, b, transpose_right=True, stored=stored)

        def dz(dy: Value) -> Value:
            return builder.gemm(dy, b)

        base = frozen_product(tape, x, weight, stored)
        added = tape.record(
            update,
            {
                self.a: lambda dy: builder.gemm(dz(dy), x.value, transpose_left=True),
                self.b: lambda dy: builder.gemm(dy.times(self.scale), z, transpose_left=True),
                x: lambda dy: builder.gemm(dz(dy), a),
            },
        )
        return _sum(tape, base, added)


def _stacked(builder: Builder, heads: Value) -> Value:
    """[K, r, n] as [K r, n]; the rows are stored one behind the other already."""
    rows = builder.as_rows(heads)
    return Value(rows.name, (f"{rows.name}.rows", rows.shape[-1]), rows.dtype, rows.scale)


def _sum(tape: Tape, base: Var, added: Var) -> Var:
    total = tape.builder.add(base.value, added.value)
    return tape.record(total, {base: lambda dy: dy, added: lambda dy: dy})
