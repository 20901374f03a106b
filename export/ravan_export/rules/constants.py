"""Tensors made from nothing: zeros, ones, ranges."""

from __future__ import annotations

import numpy as np

from ravan_export.graph import Value, Var
from ravan_export.graph.value import BOOL, FLOAT, INT32, INT64
from ravan_export.rules.registry import Call, rule

__all__: list[str] = []

_NUMPY = {FLOAT: np.float32, INT64: np.int64, INT32: np.int32, BOOL: np.bool_}


def _filled(call: Call, number: float) -> Var:
    builder = call.builder
    # One element of the rank asked for: operators broadcast it, and nobody fills a large array.
    one = builder.constant(np.full((1,) * len(call.shape), number, dtype=_NUMPY[call.dtype]))
    return call.tape.leaf(builder.expand(Value(one.name, one.shape, call.dtype), call.shape))


@rule("aten.zeros.default", "aten.zeros_like.default", "aten.new_zeros.default")
def zeros(call: Call, *_: object, **__: object) -> Var:
    """All 0."""
    return _filled(call, 0)


@rule("aten.ones.default", "aten.ones_like.default", "aten.new_ones.default")
def ones(call: Call, *_: object, **__: object) -> Var:
    """All 1."""
    return _filled(call, 1)


@rule("aten.full.default", "aten.scalar_tensor.default")
def full(call: Call, *arguments: float, **__: object) -> Var:
    """All one number."""
    return _filled(call, arguments[-1])


@rule("aten.arange.default")
def arange(call: Call, end: Var | int, **_: object) -> Var:
    """0, 1, ..., end - 1."""
    builder = call.builder
    scalar = builder.reshape(call.dim(end), ())
    zero, one = (builder.reshape(builder.constant([number]), ()) for number in (0, 1))
    y = builder.op("Range", [zero.name, scalar.name, one.name], call.shape, INT64)
    return call.tape.leaf(builder.cast(y, call.dtype))
