"""Stacked matrix products and softmax: attention."""

from __future__ import annotations

from dataclasses import dataclass

from ravan_export.graph import Value, Var
from ravan_export.graph.value import Shape
from ravan_export.rules.registry import Call, rule

__all__: list[str] = []


def _dynamic(shape: Shape) -> int:
    """How many of the last two dimensions are dynamic: the larger of two tensors has more."""
    return sum(isinstance(dim, str) for dim in shape[-2:])


@rule("aten.matmul.default", "aten.bmm.default")
def matmul(call: Call, left: Var, right: Var) -> Var:
    """y = left right; d left = dy right^T, d right = left^T dy = (dy^T left)^T."""
    builder = call.builder
    if len(right.value.shape) < 3 or len(left.value.shape) < 3:
        return _matrix_product(call, left, right)
    y = builder.matmul(left.value, right.value)

    def d_left(dy: Value) -> Value:
        part = builder.matmul(dy, builder.swap(right.value))
        return builder.sum_to(part, left.value.shape)

    def d_right(dy: Value) -> Value:
        # Transpose the smaller operand: attention's [length, length] stays as it is.
        if _dynamic(left.value.shape) > _dynamic(dy.shape):
            part = builder.swap(builder.matmul(builder.swap(dy), left.value))
        else:
            part = builder.matmul(builder.swap(left.value), dy)
        return builder.sum_to(part, right.value.shape)

    result = call.tape.record(y, {left: d_left, right: d_right})
    _remember_softmax(left, result, right)
    return result


def _matrix_product(call: Call, left: Var, right: Var) -> Var:
    if len(right.value.shape) != 2 or len(left.value.shape) < 2:
        raise call.refuse("a product with a vector", "write it with a matrix of one column")
    builder = call.builder
    return call.tape.record(
        builder.gemm(left.value, right.value),
        {
            left: lambda dy: builder.gemm(dy, right.value, transpose_right=True),
            right: lambda dy: builder.gemm(left.value, dy, transpose_left=True),
        },
    )


@dataclass(slots=True, eq=False)
class SoftmaxVar(Var):
    """A softmax's result, and the one product that reads it, where there is just one."""

    product: Var | None = None


def _remember_softmax(left: Var, product: Var, right: Var) -> None:
    if isinstance(left, SoftmaxVar) and left is not right and left.users == 1:
        left.product = product


@rule("aten.softmax.int", "aten._softmax.default")
def softmax(call: Call, x: Var, axis: int, *_: object) -> Var:
    """p = softmax(x); dx = p (dp - sum(p dp)).

    Where p is read by one product o = p v alone, sum(p dp) over a row equals sum(o do), which is
    the same number from an array smaller by length / width (Dao et al., FlashAttention, 2022).
    """
    builder, tape = call.builder, call.tape
    p = builder.op("Softmax", [builder.name(x.value)], x.value.shape, axis=axis)
    result = SoftmaxVar(p, x.needs_grad, users=call.users)

    def gradient(dp: Value) -> Value:
        last = axis % len(p.shape) == len(p.shape) - 1
        if last and result.product is not None and result.product in tape.gradients:
            pair = result.product.value, tape.gradients[result.product]
        else:
            pair = p, dp
        along = builder.reduce("ReduceSum", builder.mul(*pair), (axis,), keep=True)
        return builder.mul(builder.sub(dp, along), p)

    if x.needs_grad:
        result.parents = ((x, gradient),)
    tape.order.append(result)
    return result
