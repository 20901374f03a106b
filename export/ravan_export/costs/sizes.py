"""The size of every tensor of a graph for one batch, without running it.

onnx infers shapes node by node. Tensors of integers that shapes are made of (``Shape``, ``Concat``, the
borders of slices) are computed on the way, which is what shape inference of a whole graph does not do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import infer_node_outputs

__all__ = ["TensorSize", "tensor_sizes"]

_SMALL = 64
"""Tensors of up to so many numbers may be made of sizes, and are computed."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorSize:
    """Element type (of ``onnx.TensorProto``) and shape of one tensor."""

    dtype: int
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of its numbers."""
        return math.prod(self.shape) * helper.tensor_dtype_to_np_dtype(self.dtype).itemsize


def tensor_sizes(model: ModelProto, dims: Mapping[str, int]) -> dict[str, TensorSize]:
    """Sizes of inputs, constants and results by name.

    Where they depend on the numbers of a batch (``NonZero``), every element counts: the most there
    can be.

    Args:
        model: Frozen tensors may be external data that is not there.
        dims: The sizes of the inputs' dynamic dimensions, by name.

    Raises:
        ValueError: A size does not follow from ``dims``.
    """
    walk = _Walk(model, dims)
    for node in model.graph.node:
        walk.visit(node)
    return walk.sizes


class _Walk:
    """Sizes of what was visited, and the numbers of small integer tensors."""

    def __init__(self, model: ModelProto, dims: Mapping[str, int]) -> None:
        self.opsets = list(model.opset_import)
        self.version = next(item.version for item in self.opsets if not item.domain)
        self.ir_version = model.ir_version
        self.sizes: dict[str, TensorSize] = {}
        self.known: dict[str, Array] = {}
        self.inferred: dict[tuple[object, ...], TensorSize] = {}
        for value in model.graph.input:
            kind = value.type.tensor_type
            shape = tuple(
                int(dim.dim_value) if dim.HasField("dim_value") else dims[str(dim.dim_param)]
                for dim in kind.shape.dim
            )
            self.sizes[value.name] = TensorSize(kind.elem_type, shape)
        for tensor in model.graph.initializer:
            self.sizes[tensor.name] = TensorSize(tensor.data_type, tuple(tensor.dims))
            external = tensor.data_location == TensorProto.EXTERNAL
            if not external and math.prod(tensor.dims) <= _SMALL:
                self.known[tensor.name] = numpy_helper.to_array(tensor)

    def visit(self, node: NodeProto) -> None:
        """Find the size of a node's result, and its numbers where they are sizes."""
        inputs, result = list(node.input), node.output[0]
        if node.op_type == "Shape":
            shape = self.sizes[inputs[0]].shape
            ends = {item.name: item.i for item in node.attribute}
            self._know(result, np.array(shape[ends.get("start", 0) : ends.get("end")], np.int64))
        elif node.op_type == "NonZero":
            shape = self.sizes[inputs[0]].shape
            self.sizes[result] = TensorSize(TensorProto.INT64, (len(shape), math.prod(shape)))
        elif all(name in self.known for name in inputs):
            values = {name: self.known[name] for name in inputs}
            found: Any = ReferenceEvaluator(node).run(None, values)
            self._know(result, np.asarray(found[0]))
        else:
            self.sizes[result] = self._infer(node, inputs)

    def _know(self, name: str, array: Array) -> None:
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        self.sizes[name] = TensorSize(dtype, tuple(array.shape))
        if array.size <= _SMALL:
            self.known[name] = array

    def _infer(self, node: NodeProto, inputs: Sequence[str]) -> TensorSize:
        numbers = {name: self.known[name] for name in inputs if name in self.known}
        key = (
            node.op_type,
            tuple((item.name, item.SerializeToString()) for item in node.attribute),
            tuple((self.sizes[name].dtype, self.sizes[name].shape) for name in inputs),
            tuple((array.dtype.str, array.tobytes()) for array in numbers.values()),
        )
        if key not in self.inferred:  # layers are alike
            self.inferred[key] = self._inferred(node, inputs, numbers)
        return self.inferred[key]

    def _inferred(
        self, node: NodeProto, inputs: Sequence[str], numbers: Mapping[str, Array]
    ) -> TensorSize:
        types = {
            name: helper.make_tensor_type_proto(self.sizes[name].dtype, self.sizes[name].shape)
            for name in inputs
        }
        data = {name: numpy_helper.from_array(array, name) for name, array in numbers.items()}
        found = infer_node_outputs(
            defs.get_schema(node.op_type, self.version),
            node,
            types,
            data,
            opset_imports=self.opsets,
            ir_version=self.ir_version,
        )[node.output[0]].tensor_type
        if not all(dim.HasField("dim_value") for dim in found.shape.dim):
            raise ValueError(f"the size of {node.output[0]} ({node.op_type}) depends on numbers")
        return TensorSize(found.elem_type, tuple(dim.dim_value for dim in found.shape.dim))
