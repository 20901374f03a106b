"""One of our step graphs as a torch module, so that torch.export and ExecuTorch can have it.

The graph holds its own gradient already: the module is traced like any forward pass, and the whole plan
and this one compute the same function. Sizes are fixed, so whatever is computed from them alone is
folded first, by onnx's own evaluator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from ravan_edge.errors import ModelError
from ravan_export.plans.torch_operators import OPERATORS, SHAPE_OPERANDS, Node, gemm

__all__ = ["GraphModule"]

Array = NDArray[Any]


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _folded(model: ModelProto) -> dict[str, Array]:
    """Every tensor that depends on constants inside the graph alone."""
    graph = model.graph
    known = {
        item.name: numpy_helper.to_array(item)
        for item in graph.initializer
        if item.data_location != TensorProto.EXTERNAL
    }
    reached, nodes = set(known), []
    for node in graph.node:
        if node.input and reached.issuperset(filter(None, node.input)):
            nodes.append(node)
            reached.update(node.output)
    if not nodes:
        return known
    made = [name for node in nodes for name in node.output]
    used = {name for node in nodes for name in node.input}
    part = helper.make_graph(
        nodes,
        "constants",
        [],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in made],
        initializer=[
            item for item in graph.initializer if item.name in known and item.name in used
        ],
    )
    evaluator = ReferenceEvaluator(
        helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
    )
    return known | dict(zip(made, evaluator.run(made, {}), strict=True))


def _buffer_name(constant: Array) -> str:
    """By content: two methods of a program share what they call the same."""
    content = f"{constant.dtype} {constant.shape} ".encode() + constant.tobytes()
    return f"constant_{hashlib.sha256(content).hexdigest()[:16]}"


class GraphModule(nn.Module):
    """Called with ``inputs`` in order, returns ``outputs`` in order.

    Args:
        model: A finished graph whose sizes are fixed; its external tensors are not read.
        frozen: Numbers of its external tensors, and of inputs that shall be constants (the bases).

    Raises:
        ModelError: An operator has no form in torch; names it.
    """

    def __init__(self, model: ModelProto, frozen: Mapping[str, Array]) -> None:
        super().__init__()
        folded = _folded(model)
        self._nodes = [node for node in model.graph.node if node.output[0] not in folded]
        unknown = sorted({node.op_type for node in self._nodes} - {*OPERATORS, "Gemm"})
        if unknown:
            raise ModelError(
                f"plan executorch has no form of operator {', '.join(unknown)}",
                where="--plans",
                hint="leave the plan out",
            )
        self.inputs = [item.name for item in model.graph.input if item.name not in frozen]
        self.outputs = [item.name for item in model.graph.output]
        self._views = [Node(_attributes(node), self._filled) for node in self._nodes]
        self._fixed = False
        self._shapes: dict[str, Any] = {}
        self._buffer_names: dict[str, str] = {}
        operands: dict[str, None] = {}
        for node in self._nodes:
            places = SHAPE_OPERANDS.get(node.op_type, ())
            for place, name in enumerate(node.input):
                if place in places:
                    if name and name not in folded:
                        raise ModelError(
                            f"a size is computed from data ({node.op_type})",
                            where="--plans",
                            hint="leave plan executorch out",
                        )
                    self._shapes[name] = folded[name].tolist() if name else None
                else:
                    operands[name] = None
        operands |= dict.fromkeys(name for name in self.outputs if name in folded)
        for name in operands:
            array = folded.get(name, frozen.get(name))
            if array is not None:
                key = _buffer_name(array) if name in folded else name.replace(".", "_")
                self._buffer_names[name] = key
                self.register_buffer(key, torch.from_numpy(np.array(array)))

    def _filled(self, shape: tuple[int, ...], number: float) -> Tensor:
        key = _buffer_name(array := np.full(shape, number, np.float32))
        if not hasattr(self, key):
            if self._fixed:
                raise ValueError("a constant that the first run did not need")
            self.register_buffer(key, torch.from_numpy(array))
        found: Tensor = getattr(self, key)
        return found

    def prepared(self, inputs: Sequence[Tensor]) -> GraphModule:
        """The module after one run, in which operators made the constants they need."""
        with torch.no_grad():
            self(*inputs)
        self._fixed = True
        return self

    def _operands(self, node: NodeProto, known: Mapping[str, Tensor]) -> list[Any]:
        places = SHAPE_OPERANDS.get(node.op_type, ())
        return [
            self._shapes[name] if place in places else known[name]
            for place, name in enumerate(node.input)
        ]

    def forward(self, *inputs: Tensor) -> Sequence[Tensor]:
        """The outputs for one batch."""
        known: dict[str, Tensor] = dict(zip(self.inputs, inputs, strict=True))
        known |= {name: getattr(self, key) for name, key in self._buffer_names.items()}
        for node, view in zip(self._nodes, self._views, strict=True):
            operands = self._operands(node, known)
            if node.op_type == "Gemm":
                x, w, plus = (*operands, None)[:3]
                frozen = node.input[1] in self._buffer_names
                y = gemm(view, x, w, plus, frozen=frozen)
            else:
                y = OPERATORS[node.op_type](view, *operands)
            known[node.output[0]] = y
        return tuple(known[name] for name in self.outputs)
