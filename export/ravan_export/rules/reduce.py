"""Sums, means and maxima over dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from ravan_export.graph import Value, Var
from ravan_export.graph.value import BOOL, FLOAT, INT64, Shape
from ravan_export.rules.registry import Call, rule

__all__: list[str] = []


def _axes(axes: Sequence[int] | int | None, rank: int) -> list[int]:
    if axes is None:
        return list(range(rank))
    listed = [axes] if isinstance(axes, int) else list(axes)
    return sorted(axis % rank for axis in listed) if listed else list(range(rank))


def _kept(shape: Shape, axes: Sequence[int]) -> Shape:
    return tuple(1 if axis in axes else dim for axis, dim in enumerate(shape))


@rule("aten.sum.dim_IntList", "aten.sum.default")
def total(
    call: Call,
    x: Var,
    axes: Sequence[int] | None = None,
    keep: bool = False,
    *,
    dtype: object = None,
) -> Var:
    """The sum; its gradient is repeated."""
    del dtype
    builder, shape = call.builder, x.value.shape
    listed = _axes(axes, len(shape))
    value = builder.cast(x.value, call.dtype)

    def gradient(dy: Value) -> Value:
        return builder.expand(builder.reshape(dy, _kept(shape, listed)), shape)

    return call.tape.record(builder.reduce("ReduceSum", value, listed, keep=keep), {x: gradient})


@rule("aten.mean.dim")
def mean(
    call: Call,
    x: Var,
    axes: Sequence[int] | None,
    keep: bool = False,
    *,
    dtype: object = None,
) -> Var:
    """The mean; its gradient is repeated and divided by the number of elements."""
    del dtype
    builder, shape = call.builder, x.value.shape
    listed = _axes(axes, len(shape))

    def gradient(dy: Value) -> Value:
        spread = builder.expand(builder.reshape(dy, _kept(shape, listed)), shape)
        sizes = [shape[axis] for axis in listed]
        if all(isinstance(size, int) for size in sizes):
            count = 1
            for size in sizes:
                count *= int(size)
            return spread.times(1.0 / count)
        dims = builder.cast(builder.dims(tuple(sizes)), FLOAT)
        return builder.div(spread, builder.reduce("ReduceProd", dims, (0,), keep=False))

    return call.tape.record(builder.reduce("ReduceMean", x.value, listed, keep=keep), {x: gradient})


@rule("aten.amax.default")
def amax(
    call: Call,
    x: Var,
    axes: Sequence[int] | int,
    keep: bool = False,
) -> Var:
    """The largest; equal largest ones share the gradient, as in torch."""
    builder, shape = call.builder, x.value.shape
    listed = _axes(axes, len(shape))
    top = builder.reduce("ReduceMax", x.value, listed, keep=True)

    def gradient(dy: Value) -> Value:
        hits = builder.cast(builder.binary("Equal", x.value, top, BOOL), FLOAT)
        shared = builder.div(hits, builder.reduce("ReduceSum", hits, listed, keep=True))
        return builder.mul(shared, builder.reshape(dy, _kept(shape, listed)))

    y = top if keep else builder.reduce("ReduceMax", x.value, listed, keep=False)
    return call.tape.record(y, {x: gradient})


@rule("aten.cumsum.default")
def cumsum(call: Call, x: Var, axis: int, *, dtype: object = None) -> Var:
    """Running sum of integers (positions); it has no gradient here."""
    del dtype
    builder = call.builder
    if x.needs_grad:
        raise call.refuse("a running sum of trained values", "this needs a rule in rules/reduce.py")
    value = builder.cast(x.value, INT64 if call.dtype == INT64 else call.dtype)
    where = builder.constant([axis % len(value.shape)])
    index = builder.reshape(where, ())
    y = builder.op("CumSum", [builder.name(value), index.name], value.shape, call.dtype)
    return call.tape.record(y)
