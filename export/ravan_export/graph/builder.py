"""Builds one ONNX graph of plain ``ai.onnx`` operators; equal operations are emitted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from ravan_export.graph.value import BOOL, FLOAT, INT32, INT64, Dim, Shape, Value, broadcast

__all__ = ["Builder", "Frozen"]

Attribute = int | float | str | Sequence[int]

_NUMPY_TYPES = {
    np.dtype(np.float32): FLOAT,
    np.dtype(np.int64): INT64,
    np.dtype(np.int32): INT32,
    np.dtype(np.bool_): BOOL,
}


@dataclass(frozen=True, slots=True)
class Frozen:
    """A tensor whose numbers lie in the base file."""

    name: str
    shape: tuple[int, ...]
    dtype: int


@dataclass(slots=True)
class Builder:
    """The graph under construction.

    ``Builder.op`` is the only place that adds a node. It returns the earlier result when the same
    operator was already applied to the same tensors, so that rules need not share intermediate
    results by hand.

    Args:
        sizes: Of named dimensions, for a runtime whose sizes are fixed when the model is exported.
            Empty: they are read from the inputs when the graph runs.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    frozen: dict[str, Frozen] = field(default_factory=dict)
    _seen: dict[tuple[object, ...], str] = field(default_factory=dict)
    _dims: dict[str, Value] = field(default_factory=dict)

    # -- leaves ---------------------------------------------------------------------------------

    def input(self, name: str, shape: Shape, dtype: int = FLOAT) -> Value:
        """A graph input. Its named dimensions become known to the graph."""
        value = Value(name, shape, dtype)
        self.inputs.append(value)
        for axis, dim in enumerate(shape):
            if isinstance(dim, str) and dim not in self._dims:
                self._dims[dim] = (
                    self.constant([self.sizes[dim]])
                    if dim in self.sizes
                    else self.op("Shape", [name], (1,), INT64, start=axis, end=axis + 1)
                )
        return value

    def parameter(self, name: str, shape: tuple[int, ...], dtype: int = FLOAT) -> Value:
        """A frozen tensor of the base file, as external data."""
        self.frozen[name] = Frozen(name, shape, dtype)
        return Value(name, shape, dtype)

    def constant(self, number: NDArray[np.generic] | float | Sequence[int]) -> Value:
        """A small constant, stored inside the graph; equal ones once."""
        if isinstance(number, float):
            array: NDArray[np.generic] = np.asarray(number, dtype=np.float32)
        elif isinstance(number, np.ndarray):
            array = np.ascontiguousarray(number).reshape(number.shape)
        else:
            array = np.asarray(number, dtype=np.int64)
        key = ("constant", array.dtype.str, array.shape, array.tobytes())
        if key not in self._seen:
            name = f"c{len(self.constants)}"
            self.constants[name] = array
            self._seen[key] = name
        return Value(self._seen[key], array.shape, _NUMPY_TYPES[array.dtype])

    # -- dynamic dimensions -----------------------------------------------------------------------

    def define_dim(self, dim: Dim, value: Value) -> None:
        """Tell the graph that the int64 [1] ``value`` is the dynamic dimension ``dim``."""
        if isinstance(dim, str):
            self._dims.setdefault(dim, value)

    def dims(self, shape: Shape) -> Value:
        """A shape as an int64 [rank] tensor: constant, or put together at run time."""
        if all(isinstance(dim, int) for dim in shape):
            return self.constant([int(dim) for dim in shape])
        parts = [
            self._dims[dim].name if isinstance(dim, str) else self.constant([dim]).name
            for dim in shape
        ]
        if len(parts) == 1:
            return Value(parts[0], (1,), INT64)
        return self.op("Concat", parts, (len(shape),), INT64, axis=0)

    # -- nodes ------------------------------------------------------------------------------------

    def op(
        self,
        kind: str,
        inputs: Sequence[str],
        shape: Shape,
        dtype: int = FLOAT,
        **attributes: Attribute,
    ) -> Value:
        """Apply an operator to tensors by name; the result is stored plainly."""
        frozen_attributes = tuple(
            (key, tuple(item) if isinstance(item, (list, tuple)) else item)
            for key, item in sorted(attributes.items())
        )
        key = (kind, tuple(inputs), frozen_attributes)
        if key not in self._seen:
            name = f"v{len(self.nodes)}"
            node = helper.make_node(kind, list(inputs), [name])
            node.attribute.extend(
                helper.make_attribute(key, item) for key, item in sorted(attributes.items())
            )
            self.nodes.append(node)
            self._seen[key] = name
        return Value(self._seen[key], shape, dtype)

    # -- settling what is lazy --------------------------------------------------------------------

    def settled(self, value: Value) -> Value:
        """The same value with its factor multiplied in; the layout stays."""
        if value.scale == 1.0:
            return value
        result = self.op("Mul", [value.name, self.constant(value.scale).name], value.shape)
        return replace(value, name=result.name, scale=1.0)

    def as_plain(self, value: Value) -> Value:
        """The same value stored with its logical shape; a factor stays open."""
        if value.permutation:
            result = self.op("Transpose", [value.name], value.shape, perm=list(value.permutation))
            return replace(value, name=result.name, permutation=())
        if value.rows:
            target = self._target_shape(value.shape)
            result = self.op("Reshape", [value.name, target.name], value.shape)
            return replace(value, name=result.name, rows=False)
        return value

    def _target_shape(self, shape: Shape) -> Value:
        """The second operand of Reshape: -1 says one dynamic dimension without computing it."""
        if sum(isinstance(dim, str) for dim in shape) == 1:
            return self.constant([-1 if isinstance(dim, str) else dim for dim in shape])
        return self.dims(shape)

    def as_rows(self, value: Value) -> Value:
        """The same value stored as [tokens, last dimension]; a factor stays open."""
        if value.rows or len(value.shape) <= 2:
            return self.as_plain(value) if value.permutation else value
        value = self.as_plain(value)
        width = value.shape[-1]
        target = self.constant([-1, width]) if isinstance(width, int) else self._rows_shape(value)
        result = self.op("Reshape", [value.name, target.name], value.shape)
        return replace(value, name=result.name, rows=True)

    def _rows_shape(self, value: Value) -> Value:
        parts = [self.constant([-1]).name, self.dims(value.shape[-1:]).name]
        return self.op("Concat", parts, (2,), INT64, axis=0)

    def exact(self, value: Value) -> Value:
        """The same value with nothing open: plain and settled."""
        return self.settled(self.as_plain(value))

    def name(self, value: Value) -> str:
        """The tensor that holds exactly this value."""
        return self.exact(value).name

    # -- layouts ----------------------------------------------------------------------------------

    def permute(self, value: Value, permutation: Sequence[int]) -> Value:
        """``transpose(value, permutation)``, not computed yet."""
        if value.rows:
            value = self.as_plain(value)
        before = value.permutation or tuple(range(len(value.shape)))
        after = tuple(before[axis] for axis in permutation)
        shape = tuple(value.shape[axis] for axis in permutation)
        identity = after == tuple(range(len(after)))
        return replace(value, shape=shape, permutation=() if identity else after)

    def swap(self, value: Value) -> Value:
        """``value`` with its last two dimensions swapped, not computed yet."""
        rank = len(value.shape)
        return self.permute(value, (*range(rank - 2), rank - 1, rank - 2))

    def reshape(self, value: Value, shape: Shape) -> Value:
        """The same numbers in the same order under another shape; a factor stays open."""
        if shape == value.shape:
            return value
        if value.permutation:
            value = self.as_plain(value)
        if (
            len(shape) > 2
            and shape[-1] == value.shape[-1]
            and (value.rows or len(value.shape) == 2)
        ):
            return replace(value, shape=shape, rows=True)
        if len(shape) == 2 and value.rows and shape[-1] == value.shape[-1]:
            return replace(value, shape=shape, rows=False)
        if len(shape) == 3 and isinstance(shape[-1], int):
            result = self.op("Reshape", [value.name, self.constant([-1, shape[-1]]).name], shape)
            return replace(value, name=result.name, shape=shape, rows=True)
        result = self.op("Reshape", [value.name, self._target_shape(shape).name], shape)
        return replace(value, name=result.name, shape=shape, rows=False)

    def _common_layout(self, values: Sequence[Value], shape: Shape) -> list[Value]:
        """The values stored so that an elementwise operator gives a result of ``shape``."""
        wide = [value for value in values if value.shape == shape]
        alike = len({value.layout for value in wide}) == 1
        if alike and all(value.shape in {shape, ()} for value in values):
            return list(values)
        if len(shape) > 2 and any(value.rows for value in wide):
            rows = [self._rows_operand(value, shape) for value in values]
            if all(row is not None for row in rows):
                return [row for row in rows if row is not None]
        return [self.as_plain(value) for value in values]

    def _rows_operand(self, value: Value, shape: Shape) -> Value | None:
        """``value`` as an operand beside [tokens, width] tensors, or None where it cannot be."""
        if len(value.shape) == len(shape) and value.shape[:-1] == shape[:-1]:
            return self.as_rows(value)
        if all(dim == 1 for dim in value.shape[:-1]):
            if len(value.shape) <= 1:
                return value
            last = value.shape[-1]
            if isinstance(last, int):
                return self.reshape(self.as_plain(value), (last,))
        return None

    # -- arithmetic -------------------------------------------------------------------------------

    def unary(
        self, kind: str, value: Value, dtype: int | None = None, **attributes: Attribute
    ) -> Value:
        """An operator on each element; the layout stays."""
        value = self.settled(value)
        result = self.op(kind, [value.name], value.shape, value.dtype, **attributes)
        return replace(value, name=result.name, dtype=value.dtype if dtype is None else dtype)

    def binary(self, kind: str, left: Value, right: Value, dtype: int | None = None) -> Value:
        """An elementwise operator with broadcasting. Products keep factors open, sums equal ones."""
        shape = broadcast(left.shape, right.shape)
        scale = 1.0
        if kind == "Mul":
            scale = left.scale * right.scale
        elif kind == "Div":
            scale = left.scale / right.scale
        elif kind in {"Add", "Sub"} and left.scale == right.scale:
            scale = left.scale
        else:
            left, right = self.settled(left), self.settled(right)
        left, right = self._common_layout([left, right], shape)
        result = self.op(kind, [left.name, right.name], shape, left.dtype)
        return Value(
            result.name,
            shape,
            left.dtype if dtype is None else dtype,
            scale,
            left.rows or right.rows,
            left.permutation or right.permutation,
        )

    def add(self, left: Value, right: Value) -> Value:
        """``left + right``."""
        return self.binary("Add", left, right)

    def sub(self, left: Value, right: Value) -> Value:
        """``left - right``."""
        return self.binary("Sub", left, right)

    def mul(self, left: Value, right: Value) -> Value:
        """``left * right``, element by element."""
        return self.binary("Mul", left, right)

    def div(self, left: Value, right: Value) -> Value:
        """``left / right``, element by element."""
        return self.binary("Div", left, right)

    def where(self, condition: Value, yes: Value, no: Value) -> Value:
        """``yes`` where ``condition``, else ``no``."""
        shape = broadcast(condition.shape, yes.shape, no.shape)
        names = [self.name(value) for value in (condition, yes, no)]
        return self.op("Where", names, shape, yes.dtype)

    def cast(self, value: Value, dtype: int) -> Value:
        """The value in another element type."""
        if value.dtype == dtype:
            return value
        return self.unary("Cast", value, dtype, to=dtype)

    def reduce(self, kind: str, value: Value, axes: Sequence[int], *, keep: bool) -> Value:
        """``ReduceSum``, ``ReduceMean`` or ``ReduceMax`` over ``axes``."""
        rank = len(value.shape)
        axes = sorted(axis % rank for axis in axes)
        scale = value.scale
        if kind == "ReduceMax":
            value, scale = self.settled(value), 1.0
        kept = tuple(1 if axis in axes else dim for axis, dim in enumerate(value.shape))
        shape = kept if keep else tuple(d for a, d in enumerate(value.shape) if a not in axes)
        on_rows = value.rows and axes == [rank - 1] and keep
        value = value if on_rows else self.as_plain(value)
        stored = [1] if on_rows else list(axes)
        names = [value.name, self.constant(stored).name]
        result = self.op(kind, names, shape, value.dtype, keepdims=int(keep))
        return replace(value, name=result.name, shape=shape, scale=scale, rows=on_rows)

    def sum_to(self, value: Value, shape: Shape) -> Value:
        """Sum over what was broadcast from ``shape``: the gradient of broadcasting."""
        if value.shape == shape:
            return value
        extra = len(value.shape) - len(shape)
        axes = list(range(extra))
        axes += [
            a for a in range(extra, len(value.shape)) if shape[a - extra] == 1 != value.shape[a]
        ]
        if value.rows and axes == list(range(len(value.shape) - 1)):
            result = self.op("ReduceSum", [value.name, self.constant([0]).name], shape, keepdims=0)
            return self.reshape(
                Value(result.name, value.shape[-1:], value.dtype, value.scale), shape
            )
        return self.reshape(self.reduce("ReduceSum", value, axes, keep=True), shape)

    def expand(self, value: Value, shape: Shape) -> Value:
        """The value repeated to ``shape``; a factor stays open."""
        if value.shape == shape:
            return value
        value = self.as_plain(value)
        result = self.op("Expand", [value.name, self.dims(shape).name], shape, value.dtype)
        return replace(value, name=result.name, shape=shape)

    # -- matrix products --------------------------------------------------------------------------

    def gemm(
        self,
        left: Value,
        right: Value,
        *,
        transpose_left: bool = False,
        transpose_right: bool = False,
        stored: float = 1.0,
        plus: Value | None = None,
    ) -> Value:
        """A product of two matrices, plus a third of the result's size if wanted.

        Tensors of more dimensions count as [rows, last dimension].

        Factors of the operands go into ``alpha``, and so does ``stored``: a factor that whoever
        reads the result wants applied (the value itself does not change: its open factor is
        ``1 / stored``). ``transB`` reads a frozen matrix as it lies in the base, where ``Transpose``
        would be folded into a second copy when loading.
        """
        left, right = self.as_rows(left), self.as_rows(right)
        alpha = left.scale * right.scale * stored
        attributes: dict[str, Attribute] = {}
        if alpha != 1.0:
            attributes["alpha"] = alpha
        if transpose_left:
            attributes["transA"] = 1
        if transpose_right:
            attributes["transB"] = 1
        outer: Shape = left.shape[-1:] if transpose_left else left.shape[:-1]
        inner: Dim = right.shape[0] if transpose_right else right.shape[-1]
        if transpose_right and len(right.shape) > 2:
            raise ValueError("the right operand of x y^T is a matrix")
        shape = (*outer, inner)
        names = [left.name, right.name]
        if plus is not None:
            names.append(self.name(plus))
        result = self.op("Gemm", names, shape, FLOAT, **attributes)
        return replace(result, rows=len(shape) > 2, scale=1.0 / stored)

    def matmul(self, left: Value, right: Value) -> Value:
        """A product of stacks of matrices. Factors stay open."""
        shape = (*broadcast(left.shape[:-2], right.shape[:-2]), left.shape[-2], right.shape[-1])
        scale = left.scale * right.scale
        left, right = self.as_plain(left), self.as_plain(right)
        result = self.op("MatMul", [left.name, right.name], shape)
        return replace(result, scale=scale)
