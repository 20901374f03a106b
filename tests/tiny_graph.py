"""The graphs of the tiny artifact: forward and backward written by hand in plain ai.onnx nodes.

x      = mean of E[token] over the tokens the mask shows          [batch, n]
pre    = W x + bias + sum_i B_i G_i A_i x                         [batch, m]
logits = task_head.weight tanh(pre) + task_head.bias              [batch, L]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import TensorProto, helper

from ravan_edge.artifact.manifest import GraphTensor
from ravan_edge.artifact.tensor_file import TensorHeader

LAYER = "encoder.dense"
_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


class _Nodes:
    """A list of nodes that hands out names: ``y = nodes("Add", a, b)``."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(
        self,
        operator: str,
        *inputs: str,
        out: str | None = None,
        **attributes: float | list[int],
    ) -> str:
        out = out or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [out], **attributes))
        return out

    def integers(self, values: list[int], shape: list[int] | None = None) -> str:
        return self._constant(TensorProto.INT64, [len(values)] if shape is None else shape, values)

    def number(self, value: float) -> str:
        return self._constant(TensorProto.FLOAT, [], [value])

    def _constant(self, kind: int, shape: list[int], values: list[Any]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(helper.make_tensor(name, kind, shape, values))
        return name


def _pooled(g: _Nodes) -> str:
    """x: the mean over the tokens that the mask shows; a fully padded row is 0."""
    mask = g("Cast", "attention_mask", to=TensorProto.FLOAT)
    tokens = g("Gather", "embedding.weight", "input_ids")
    summed = g(
        "Squeeze", g("MatMul", g("Unsqueeze", mask, g.integers([1])), tokens), g.integers([1])
    )
    shown = g("Max", g("ReduceSum", mask, g.integers([1]), keepdims=1), g.number(1.0))
    return g("Div", summed, shown)


def _ravan(g: _Nodes, x: str) -> tuple[str, str]:
    """(sum_i B_i G_i A_i x, A_i x as [K, batch, r])."""
    down = g("MatMul", x, g("Transpose", f"{LAYER}.A", perm=[0, 2, 1]))
    middle = g("MatMul", down, g("Transpose", f"{LAYER}.G", perm=[0, 2, 1]))
    up = g("MatMul", middle, f"{LAYER}.Bt")
    return g("ReduceSum", up, g.integers([0]), keepdims=0), down


def _ravan_backward(g: _Nodes, d_pre: str, down: str) -> None:
    d_middle = g("MatMul", d_pre, g("Transpose", f"{LAYER}.Bt", perm=[0, 2, 1]))
    g("MatMul", g("Transpose", d_middle, perm=[0, 2, 1]), down, out=f"grad.{LAYER}.G")


def _fedit(g: _Nodes, x: str, scale: float) -> tuple[str, str]:
    """(scale lora_B lora_A x, lora_A x as [batch, r])."""
    down = g("Gemm", x, f"{LAYER}.lora_A", transB=1)
    return g("Gemm", down, f"{LAYER}.lora_B", transB=1, alpha=scale), down


def _fedit_backward(g: _Nodes, d_pre: str, x: str, down: str, scale: float) -> None:
    g("Gemm", d_pre, down, transA=1, alpha=scale, out=f"grad.{LAYER}.lora_B")
    d_down = g("Gemm", d_pre, f"{LAYER}.lora_B", alpha=scale)
    g("Gemm", d_down, x, transA=1, out=f"grad.{LAYER}.lora_A")


def build_graph(
    role: str,
    method: str,
    inputs: tuple[GraphTensor, ...],
    outputs: tuple[GraphTensor, ...],
    base: TensorHeader,
    *,
    labels: int,
    scale: float,
) -> bytes:
    """``step.onnx`` or ``eval.onnx`` whose frozen tensors point into ``base.safetensors``."""
    g = _Nodes()
    x = _pooled(g)
    pre = g("Gemm", x, f"{LAYER}.weight", f"{LAYER}.bias", transB=1)
    down = ""
    if method == "ravan":
        adapted, down = _ravan(g, x)
        pre = g("Add", pre, adapted)
    elif method == "fedit":
        adapted, down = _fedit(g, x, scale)
        pre = g("Add", pre, adapted)
    hidden = g("Tanh", pre)
    logits = g("Gemm", hidden, "task_head.weight", "task_head.bias", transB=1)
    d_logits = _loss(g, logits, labels)
    if role == "eval":
        g("Identity", logits, out="logits")
        g.nodes = _needed(g.nodes, {tensor.name for tensor in outputs})
    else:
        g("Gemm", d_logits, hidden, transA=1, out="grad.task_head.weight")
        g("ReduceSum", d_logits, g.integers([0]), keepdims=0, out="grad.task_head.bias")
        d_hidden = g("MatMul", d_logits, "task_head.weight")
        slope = g("Sub", g.number(1.0), g("Mul", hidden, hidden))
        d_pre = g("Mul", d_hidden, slope)
        if method == "ravan":
            _ravan_backward(g, d_pre, down)
        elif method == "fedit":
            _fedit_backward(g, d_pre, x, down, scale)
        g.nodes = _needed(g.nodes, {tensor.name for tensor in outputs})
    used = {name for node in g.nodes for name in node.input}
    frozen = [f"{LAYER}.weight", f"{LAYER}.bias", "embedding.weight"]
    graph = helper.make_graph(
        g.nodes,
        role,
        [_value(tensor) for tensor in inputs],
        [_value(tensor) for tensor in outputs],
        [constant for constant in g.constants if constant.name in used]
        + [external_tensor(name, base) for name in frozen],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString(deterministic=True)


def _loss(g: _Nodes, logits: str, labels: int) -> str:
    """loss_sum, count and correct; returns the gradient of loss_sum by logits."""
    valid = g("Not", g("Equal", "labels", g.integers([-100], [])))
    counted = g("Cast", valid, to=TensorProto.FLOAT)
    g("ReduceSum", g("Cast", valid, to=TensorProto.INT64), keepdims=0, out="count")
    label = g("Where", valid, "labels", g.integers([0], []))
    classes = g.integers(list(range(labels)), [1, labels])
    hot = g("Equal", g("Unsqueeze", label, g.integers([1])), classes)
    hot = g("Cast", hot, to=TensorProto.FLOAT)
    log_p = g("LogSoftmax", logits, axis=1)
    picked = g("ReduceSum", g("Mul", hot, log_p), g.integers([1]), keepdims=0)
    g("Neg", g("ReduceSum", g("Mul", picked, counted), keepdims=0), out="loss_sum")
    right = g("And", g("Equal", g("ArgMax", logits, axis=1, keepdims=0), label), valid)
    g("ReduceSum", g("Cast", right, to=TensorProto.INT64), keepdims=0, out="correct")
    column = g("Unsqueeze", counted, g.integers([1]))
    return g("Mul", g("Sub", g("Exp", log_p), hot), column)


def _needed(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that the wanted outputs need, in their order."""
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]


def _value(tensor: GraphTensor) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, _TYPES[tensor.dtype], list(tensor.shape))


def external_tensor(
    name: str, base: TensorHeader, changes: Mapping[str, str] | None = None
) -> onnx.TensorProto:
    """An initializer that points to a float32 tensor of the base."""
    spec = base.specs[name]
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=spec.shape)
    tensor.data_location = TensorProto.EXTERNAL
    place = {
        "location": "base.safetensors",
        "offset": str(base.data_offset + spec.begin),
        "length": str(spec.end - spec.begin),
    }
    for key, value in (place | dict(changes or {})).items():
        tensor.external_data.add(key=key, value=value)
    return tensor
