"""What each method adds to an adapted linear layer, as nodes of the graph.

Ravan's sum can be computed in two orders with the same result and gradients. Beside the layer, the
cost is of tokens times h r; merged into the layer's matrix, of tokens times m n / (h r) less, but a
fixed cost of h r m n comes in. :func:`merging_pays` counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from ravan_edge.artifact.manifest import Layer
from ravan_export.graph import Builder, Tape, Value, Var
from ravan_export.rules.linear import frozen_product

__all__ = ["LoraAdapter", "MergedRavanAdapter", "RavanAdapter", "merging_pays"]


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

        y = x W'^T       dx = dy W'       P = dy^T x       dG_i = (B^T P)_i A_i^T

    No pass over [tokens, m] more than the layer has without adapters.

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
        merged = builder.gemm(b, c, transpose_left=True, plus=weight)

        def d_core(dy: Value) -> Value:
            p = builder.gemm(dy, x.value, transpose_left=True)
            dc = builder.reshape(builder.gemm(b, p), (heads, *self.a.shape[1:]))
            return builder.matmul(dc, builder.swap(self.a))

        y = builder.gemm(x.value, merged, transpose_right=True, stored=stored)
        return tape.record(y, {self.core: d_core, x: lambda dy: builder.gemm(dy, merged)})


def merging_pays(layer: Layer, tokens: int) -> bool:
    """Whether the merged order needs fewer operations at that many tokens in a step.

    Beside the layer: 2 T h r (3 n + 2 m). Merged: 2 T m n + 4 h r m n. What both have is left out.

    >>> minilm = Layer(name="q", outputs=384, inputs=384, heads=4, rank=39)
    >>> [merging_pays(minilm, tokens) for tokens in (128, 512)]
    [False, True]
    """
    m, n, stacked = layer.outputs, layer.inputs, layer.heads * layer.rank
    return tokens * (stacked * (3 * n + 2 * m) - m * n) > 2 * stacked * m * n


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
