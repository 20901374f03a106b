"""How many bytes of tensors are alive at once while a graph is computed node by node.

The order is the graph's own. onnxruntime's ``PRIORITY_BASED`` order, which plan ``whole`` asks for, takes
the node of the smallest number among those that are ready, and so keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from ravan_export.costs.sizes import TensorSize

__all__ = ["Peak", "live_peak"]

_VIEWS = frozenset({"Reshape", "Identity", "Squeeze", "Unsqueeze"})
"""Their result is the operand's memory."""
_IN_PLACE = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Exp", "Sqrt", "Reciprocal", "Tanh", "Erf", "Sigmoid", "Relu",
        "Neg", "Not", "Abs", "Log", "Pow", "Softmax", "LogSoftmax",
    }
)  # fmt: skip
"""They may write over an operand of the same size that nobody reads any more."""


@dataclass(frozen=True, slots=True)
class Peak:
    """Where most is alive.

    Args:
        bytes: Results of nodes that are alive then; inputs and frozen tensors are not counted.
        node: The number of the node that runs then.
        operator: Its operator.
    """

    bytes: int
    node: int
    operator: str


def live_peak(model: ModelProto, sizes: Mapping[str, TensorSize]) -> Peak:
    """The peak of one run.

    Args:
        model: Its nodes are in the order they run in.
        sizes: Of all tensors.
    """
    nodes = list(model.graph.node)
    owner = _owners(nodes)
    last = _last_uses(model, nodes, owner)
    alive: dict[str, int] = {}
    total, peak = 0, Peak(0, 0, "")
    for number, node in enumerate(nodes):
        result = node.output[0]
        read = {owner.get(name, name) for name in node.input}
        ending = {name for name in read if name in alive and last[name] == number}
        if result not in owner:
            size = sizes[result].bytes
            if node.op_type in _IN_PLACE:
                over = next((name for name in sorted(ending) if alive[name] == size), None)
                if over is not None:
                    ending.remove(over)
                    total -= alive.pop(over)
            alive[result] = size
            total += size
            if total > peak.bytes:
                peak = Peak(total, number, node.op_type)
            if result not in last:
                ending.add(result)
        for name in ending:
            total -= alive.pop(name)
    return peak


def _owners(nodes: list[NodeProto]) -> dict[str, str]:
    """Views -> the tensor whose memory they are."""
    owner: dict[str, str] = {}
    for node in nodes:
        if node.op_type in _VIEWS:
            owner[node.output[0]] = owner.get(node.input[0], node.input[0])
    return owner


def _last_uses(
    model: ModelProto, nodes: list[NodeProto], owner: Mapping[str, str]
) -> dict[str, int]:
    """Tensor -> the last node that reads it; what the graph returns stays to the end."""
    last: dict[str, int] = {}
    for number, node in enumerate(nodes):
        for name in node.input:
            last[owner.get(name, name)] = number
    for output in model.graph.output:
        last[owner.get(output.name, output.name)] = len(nodes)
    return last
