"""The operators of our graphs in torch, in the forms that ExecuTorch's XNNPACK takes over.

XNNPACK computes products of any kind, elementwise operators, softmax over the last dimension and changes of
layout; what it does not (reductions, erf, integers) runs on ExecuTorch's own kernels. Hence a product of
two computed matrices is a batched one, and a sum over the last dimension a product with a column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

__all__ = ["OPERATORS", "SHAPE_OPERANDS", "Node", "Operator", "gemm"]


@dataclass(frozen=True, slots=True)
class Node:
    """What an operator is told beside its operands.

    Args:
        attributes: Of the node.
        filled: A constant of this shape with one number everywhere, which is stored once.
    """

    attributes: Mapping[str, Any]
    filled: Callable[[tuple[int, ...], float], Tensor]

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401
        return self.attributes[name]

    def get(self, name: str, otherwise: Any) -> Any:  # noqa: ANN401
        """An attribute, or its default."""
        return self.attributes.get(name, otherwise)


Operator = Callable[..., Tensor]
"""Called with the node and its operands; those of ``SHAPE_OPERANDS`` are lists of numbers."""

OPERATORS: dict[str, Operator] = {}

SHAPE_OPERANDS: Mapping[str, tuple[int, ...]] = {
    "CumSum": (1,),
    "Expand": (1,),
    "Pad": (1, 2, 3),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceProd": (1,),
    "ReduceSum": (1,),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
}
"""Operands that say where or how, not what: they must be known when the model is exported."""

_TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}
_LEAST_COLUMN = 16
"""From how many summed numbers on a product with a column is worth it."""


def _operator(*names: str) -> Callable[[Operator], Operator]:
    def add(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return add


def _elementwise(function: Callable[..., Tensor]) -> Operator:
    return lambda _, *operands: function(*operands)


OPERATORS |= {
    "Add": _elementwise(torch.add),
    "And": _elementwise(torch.bitwise_and),
    "Cos": _elementwise(torch.cos),
    "Div": lambda _, x, y: (
        x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")
    ),
    "Equal": _elementwise(torch.eq),
    "Erf": _elementwise(torch.erf),
    "Exp": _elementwise(torch.exp),
    "Greater": _elementwise(torch.gt),
    "GreaterOrEqual": _elementwise(torch.ge),
    "Less": _elementwise(torch.lt),
    "LessOrEqual": _elementwise(torch.le),
    "Max": _elementwise(torch.maximum),
    "Min": _elementwise(torch.minimum),
    "Mul": _elementwise(torch.mul),
    "Neg": _elementwise(torch.neg),
    "Not": _elementwise(torch.bitwise_not),
    "Relu": _elementwise(torch.relu),
    "Sigmoid": _elementwise(torch.sigmoid),
    "Sign": _elementwise(torch.sign),
    "Sin": _elementwise(torch.sin),
    "Sqrt": _elementwise(torch.sqrt),
    "Sub": _elementwise(torch.sub),
    "Tanh": _elementwise(torch.tanh),
    "Where": _elementwise(torch.where),
    "Reciprocal": lambda node, x: node.filled((1,) * x.dim(), 1.0) / x,
    "Transpose": lambda node, x: x.permute(node["perm"]),
    "Softmax": lambda node, x: torch.softmax(x, node["axis"]),
    "LogSoftmax": lambda node, x: torch.log_softmax(x, node["axis"]),
    "Cast": lambda node, x: x.to(_TYPES[node["to"]]),
    "GatherElements": lambda node, x, index: torch.gather(x, node["axis"], index),
    "Concat": lambda node, *parts: torch.cat(parts, node["axis"]),
}


@_operator("Identity")
def _identity(node: Node, x: Tensor) -> Tensor:
    # Two outputs may be one tensor. XNNPACK drops a copy, and then does not know what to return.
    return x * node.filled((1,) * x.dim(), 1.0) if x.is_floating_point() else x.clone()


def _product(x: Tensor, y: Tensor) -> Tensor:
    """x y for two computed matrices: as a batch of one, which XNNPACK computes with all threads."""
    return torch.bmm(x.reshape(1, *x.shape), y.reshape(1, *y.shape)).reshape(len(x), -1)


def gemm(node: Node, x: Tensor, w: Tensor, plus: Tensor | None, *, frozen: bool) -> Tensor:
    """alpha x w + beta plus, with x and w transposed where the node says so.

    Args:
        node: Says so.
        x: [rows, inner], or [inner, rows] with ``transA``.
        w: [inner, columns], or [columns, inner] with ``transB``.
        plus: Added, or None.
        frozen: Whether ``w`` is a constant, which XNNPACK then packs once.
    """
    if node.get("transA", 0):
        x = x.t()
    if frozen:
        y = torch.nn.functional.linear(x, w) if node.get("transB", 0) else torch.mm(x, w)
    else:
        y = _product(x, w.t() if node.get("transB", 0) else w)
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    y = y if alpha == 1.0 else y * alpha
    if plus is None:
        return y
    return y + (plus if beta == 1.0 else plus * beta)


@_operator("MatMul")
def _matmul(_: Node, x: Tensor, y: Tensor) -> Tensor:
    if x.dim() == y.dim() == 2:
        return _product(x, y)
    lead = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    left, right = (
        (item if item.shape[:-2] == lead else item.expand(*lead, *item.shape[-2:])).reshape(
            -1, *item.shape[-2:]
        )
        for item in (x, y)
    )
    return torch.bmm(left, right).reshape(*lead, x.shape[-2], y.shape[-1])


@_operator("Reshape")
def _reshape(_: Node, x: Tensor, shape: Sequence[int]) -> Tensor:
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)])


@_operator("Expand")
def _expand(_: Node, x: Tensor, shape: Sequence[int]) -> Tensor:
    # Copied: a view's strides would be 0, which ExecuTorch does not have.
    return x.expand(torch.broadcast_shapes(x.shape, shape)).clone()


def _axes(x: Tensor, axes: Sequence[int] | None) -> list[int]:
    return sorted(axis % x.dim() for axis in (range(x.dim()) if axes is None else axes))


def _summed(x: Tensor, axes: Sequence[int] | None, node: Node, factor: float) -> Tensor:
    kept = bool(node.get("keepdims", 1))
    places, width = _axes(x, axes), x.shape[-1] if x.dim() else 1
    if places == [x.dim() - 1] and x.dtype == torch.float32 and width >= _LEAST_COLUMN:
        column = node.filled((1, width), factor)
        y = torch.nn.functional.linear(x.reshape(-1, width), column)
        return y.reshape(*x.shape[:-1], 1) if kept else y.reshape(x.shape[:-1])
    y = torch.sum(x, places, keepdim=kept)
    return y if factor == 1.0 else y * factor


@_operator("ReduceSum")
def _reduce_sum(node: Node, x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    return _summed(x, axes, node, 1.0)


@_operator("ReduceMean")
def _reduce_mean(node: Node, x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    count = math.prod(x.shape[axis] for axis in _axes(x, axes))
    return _summed(x, axes, node, 1.0 / count)


@_operator("ReduceMax")
def _reduce_max(node: Node, x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    return torch.amax(x, _axes(x, axes), keepdim=bool(node.get("keepdims", 1)))


@_operator("ReduceProd")
def _reduce_product(node: Node, x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    for axis in reversed(_axes(x, axes)):
        x = torch.prod(x, axis, keepdim=bool(node.get("keepdims", 1)))
    return x


@_operator("ArgMax")
def _argmax(node: Node, x: Tensor) -> Tensor:
    return torch.argmax(x, node["axis"], keepdim=bool(node.get("keepdims", 1)))


@_operator("CumSum")
def _cumsum(_: Node, x: Tensor, axis: int | Sequence[int]) -> Tensor:
    place = axis if isinstance(axis, int) else axis[0]
    return torch.cumsum(x, place, dtype=x.dtype)


@_operator("Gather")
def _gather(node: Node, x: Tensor, index: Tensor) -> Tensor:
    axis = node.get("axis", 0)
    if axis == 0 and x.dim() == 2 and index.dtype == torch.int64:
        return torch.nn.functional.embedding(index, x)
    found = torch.index_select(x, axis, index.reshape(-1))
    return found.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


@_operator("Slice")
def _slice(
    _: Node,
    x: Tensor,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> Tensor:
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = place if axes is None else axes[place]
        step = 1 if steps is None else steps[place]
        x = torch.ops.aten.slice.Tensor(x, axis, start, end, step)
    return x


@_operator("Pad")
def _pad(
    _: Node,
    x: Tensor,
    pads: Sequence[int],
    number: float = 0,
    axes: Sequence[int] | None = None,
) -> Tensor:
    places = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
    widths = dict(
        zip(places, zip(pads[: len(places)], pads[len(places) :], strict=True), strict=True)
    )
    flat = [side for axis in reversed(range(x.dim())) for side in widths.get(axis, (0, 0))]
    return torch.nn.functional.pad(x, flat, value=number)


def _convolution(
    node: Node, x: Tensor, w: Tensor, bias: Tensor | None, *, transposed: bool
) -> Tensor:
    places = w.dim() - 2
    ones, zeros = [1] * places, [0] * places
    pads = node.get("pads", zeros * 2)
    if list(pads[:places]) != list(pads[places:]):
        raise ValueError("a convolution is padded on one side only")
    y: Tensor = torch.ops.aten.convolution(
        x,
        w,
        bias,
        list(node.get("strides", ones)),
        list(pads[:places]),
        list(node.get("dilations", ones)),
        transposed,
        list(node.get("output_padding", zeros)) if transposed else zeros,
        node.get("group", 1),
    )
    return y


@_operator("Conv")
def _conv(node: Node, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    return _convolution(node, x, w, bias, transposed=False)


@_operator("ConvTranspose")
def _conv_transpose(node: Node, x: Tensor, w: Tensor) -> Tensor:
    return _convolution(node, x, w, None, transposed=True)
