"""Linear layers: y = x W^T + b, with W as it lies in the base in both directions."""

from __future__ import annotations

from ravan_export.graph import Tape, Value, Var
from ravan_export.rules.registry import Call, rule

__all__ = ["frozen_product"]

_GELU_INPUT = 0.5**0.5
"""GELU reads its input times this inside erf; a layer that only feeds GELU stores it so."""


def frozen_product(tape: Tape, x: Var, weight: Value, stored: float = 1.0) -> Var:
    """x W^T for a frozen W [m, n]; the gradient dX = dY W reads the same layout."""
    builder = tape.builder
    y = builder.gemm(x.value, weight, transpose_right=True, stored=stored)
    return tape.record(y, {x: lambda dy: builder.gemm(dy, weight)})


def _trained_product(tape: Tape, x: Var, weight: Var) -> Var:
    builder = tape.builder
    y = builder.gemm(x.value, weight.value, transpose_right=True)
    return tape.record(
        y,
        {
            x: lambda dy: builder.gemm(dy, weight.value),
            weight: lambda dy: builder.gemm(dy, x.value, transpose_left=True),
        },
    )


@rule("aten.linear.default")
def linear(call: Call, x: Var, weight: Var, bias: Var | None = None) -> Var:
    """y = x W^T + b; with an adapter y = x (W + sum_i B_i G_i A_i)^T + b."""
    tape, builder = call.tape, call.builder
    # With the factor in the product's alpha and in the (short) bias, scaling costs no pass over
    # [tokens, outputs].
    stored = _GELU_INPUT if call.only_user == "aten.gelu.default" else 1.0
    adapter = call.adapters.get(weight.origin)
    if adapter is not None:
        y = adapter.linear(tape, x, weight.value, stored)
    elif weight.needs_grad:
        y, stored = _trained_product(tape, x, weight), 1.0
    else:
        y = frozen_product(tape, x, weight.value, stored)
    if bias is None:
        return y
    short = builder.settled(bias.value.times(stored)).times(1.0 / stored)
    # Not as Gemm's third operand: onnxruntime copies that into the result in one thread first,
    # which for [1024, 1536] takes four times as long as this Add.
    return tape.record(
        builder.add(y.value, short),
        {y: lambda dy: dy, bias: lambda dy: builder.sum_to(dy, bias.value.shape)},
    )
