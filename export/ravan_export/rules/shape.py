"""Operators that reorder or cut: most cost nothing, their work stays open in the value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ravan_export.graph import Value, Var
from ravan_export.graph.value import INT64
from ravan_export.rules.registry import Call, rule

__all__: list[str] = []

_INT64_MAX = 2**63 - 1


@rule("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default", "aten.flatten.using_ints",
      "aten.unflatten.int")  # fmt: skip
def view(call: Call, x: Var, *_: object) -> Var:
    """The same numbers under another shape."""
    builder, before = call.builder, x.value.shape
    return call.tape.record(
        builder.reshape(x.value, call.shape), {x: lambda dy: builder.reshape(dy, before)}
    )


@rule("aten.unsqueeze.default", "aten.squeeze.dim", "aten.squeeze.dims", "aten.squeeze.default")
def unsqueeze(call: Call, x: Var, *_: object) -> Var:
    """A dimension of size 1 more or less."""
    return view(call, x)


@rule("aten.transpose.int")
def transpose(call: Call, x: Var, first: int, second: int) -> Var:
    """Two dimensions exchanged."""
    order = list(range(len(x.value.shape)))
    order[first], order[second] = order[second], order[first]
    return permute(call, x, order)


@rule("aten.t.default")
def matrix_transpose(call: Call, x: Var) -> Var:
    """A matrix transposed."""
    return permute(call, x, (1, 0))


@rule("aten.permute.default")
def permute(call: Call, x: Var, order: Sequence[int]) -> Var:
    """Dimensions reordered."""
    builder = call.builder
    axes = [axis % len(order) for axis in order]
    back = [axes.index(axis) for axis in range(len(axes))]
    return call.tape.record(
        builder.permute(x.value, axes), {x: lambda dy: builder.permute(dy, back)}
    )


@rule("aten.expand.default")
def expand(call: Call, x: Var, *_: object, **__: object) -> Var:
    """Repeated along dimensions of size 1."""
    builder = call.builder
    return call.tape.record(
        builder.expand(x.value, call.shape), {x: lambda dy: builder.sum_to(dy, x.value.shape)}
    )


@rule("aten.select.int")
def select(call: Call, x: Var, axis: int, index: int) -> Var:
    """One index of a dimension; the gradient is 0 elsewhere."""
    builder, shape = call.builder, x.value.shape
    axis %= len(shape)
    piece = _cut(call, x.value, axis, index, index + 1 if index != -1 else _INT64_MAX)

    def gradient(dy: Value) -> Value:
        kept = tuple(1 if place == axis else dim for place, dim in enumerate(shape))
        return _pad(call, builder.reshape(dy, kept), x.value, axis, index)

    return call.tape.record(builder.reshape(piece, call.shape), {x: gradient})


def _cut(call: Call, value: Value, axis: int, start: Any, end: Any) -> Value:  # noqa: ANN401
    builder = call.builder
    names = [
        builder.as_plain(value).name,
        start if isinstance(start, str) else builder.constant([start]).name,
        end if isinstance(end, str) else builder.constant([end]).name,
        builder.constant([axis]).name,
    ]
    dims = list(value.shape)
    dims[axis] = 1 if call.shape == () or len(call.shape) < len(dims) else call.shape[axis]
    result = builder.op("Slice", names, tuple(dims), value.dtype)
    return Value(result.name, tuple(dims), value.dtype, value.scale)


def _pad(call: Call, piece: Value, whole: Value, axis: int, index: int) -> Value:
    """``piece`` (size 1 along ``axis``) put at ``index`` of a tensor of zeros like ``whole``."""
    builder = call.builder
    size = builder.dims((whole.shape[axis],))
    at = builder.constant([index])
    if index < 0:
        at = builder.op("Add", [at.name, size.name], (1,), INT64)
    behind = builder.op("Sub", [size.name, at.name], (1,), INT64)
    behind = builder.op("Sub", [behind.name, builder.constant([1]).name], (1,), INT64)
    zero = builder.constant([0]).name
    sides = [
        [pad.name if place == axis else zero for place in range(len(whole.shape))]
        for pad in (at, behind)
    ]
    names = [*sides[0], *sides[1]]
    return _padded(call, piece, whole, builder.op("Concat", names, (len(names),), INT64, axis=0))


@rule("aten.slice.Tensor")
def cut(
    call: Call,
    x: Var,
    axis: int = 0,
    start: Var | int | None = None,
    end: Var | int | None = None,
    step: int = 1,
) -> Var:
    """A range of a dimension."""
    if step != 1:
        raise call.refuse(f"a slice with step {step}", "this needs a rule in rules/shape.py")
    if x.value.shape == call.shape:
        return x
    axis %= len(x.value.shape)
    first = start.value.name if isinstance(start, Var) else start or 0
    last = end.value.name if isinstance(end, Var) else _INT64_MAX if end is None else end
    piece = _cut(call, x.value, axis, first, last)
    size, kept = x.value.shape[axis], call.shape[axis]
    if isinstance(first, int) and isinstance(size, int) and isinstance(kept, int):
        before = first + size if first < 0 else first
        pads = (before, size - before - kept)
        return call.tape.record(piece, {x: lambda dy: _zeros_around(call, dy, x.value, axis, pads)})
    if x.needs_grad:
        raise call.refuse(
            "a slice of trained values along a dynamic dimension",
            "this needs a gradient in rules/shape.py",
        )
    return call.tape.record(piece)


def _zeros_around(
    call: Call, piece: Value, whole: Value, axis: int, pads: tuple[int, int]
) -> Value:
    """``piece`` with so many zeros before and behind it along ``axis``, in the shape of ``whole``."""
    counts = [0] * (2 * len(whole.shape))
    counts[axis], counts[axis + len(whole.shape)] = pads
    return _padded(call, piece, whole, call.builder.constant(counts))


def _padded(call: Call, piece: Value, whole: Value, counts: Value) -> Value:
    """``piece`` between zeros: ``counts`` are those before each axis, then those behind each.

    All axes are written out: onnxruntime moves transpositions past a Pad as if it had no ``axes``.
    """
    builder = call.builder
    piece = builder.as_plain(piece)
    result = builder.op("Pad", [piece.name, counts.name], whole.shape, mode="constant")
    return Value(result.name, whole.shape, piece.dtype, piece.scale)


@rule("aten.cat.default")
def cat(call: Call, parts: Sequence[Var], axis: int = 0) -> Var:
    """Tensors one behind the other; each part's gradient is its range."""
    builder = call.builder
    axis %= len(call.shape)
    names = [builder.name(part.value) for part in parts]
    y = builder.op("Concat", names, call.shape, call.dtype, axis=axis)
    pullbacks = {}
    start = 0
    for part in parts:
        size = part.value.shape[axis]
        if not isinstance(size, int):
            if part.needs_grad:
                raise call.refuse(
                    "trained values joined along a dynamic dimension", "see rules/shape.py"
                )
            break
        pullbacks[part] = _range_gradient(call, part.value, axis, start)
        start += size
    return call.tape.record(y, pullbacks)


def _range_gradient(call: Call, part: Value, axis: int, start: int) -> Any:  # noqa: ANN401
    builder = call.builder
    size = part.shape[axis]

    def gradient(dy: Value) -> Value:
        ends = [builder.constant([start]).name, builder.constant([start + int(size)]).name]
        names = [builder.as_plain(dy).name, *ends, builder.constant([axis]).name]
        result = builder.op("Slice", names, part.shape, part.dtype)
        return Value(result.name, part.shape, part.dtype, dy.scale)

    return gradient


@rule("aten.sym_size.int")
def size(call: Call, x: Var, axis: int) -> Var:
    """A dynamic dimension, int64 [1]."""
    return call.tape.leaf(call.builder.dims((x.value.shape[axis],)))
