"""A finished graph as an ONNX model: only what outputs need, and frozen numbers left in the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ravan_export.graph.builder import Builder
from ravan_export.graph.value import Value

__all__ = ["BASE_FILE", "IR_VERSION", "OPSET", "Span", "finish"]

OPSET = 18
IR_VERSION = 10
BASE_FILE = "base.safetensors"


@dataclass(frozen=True, slots=True)
class Span:
    """Where a tensor's bytes lie in the base file."""

    offset: int
    length: int


def _needed(nodes: list[NodeProto], outputs: set[str]) -> list[NodeProto]:
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _named_outputs(builder: Builder, outputs: Mapping[str, Value]) -> list[NodeProto]:
    """The nodes with each output's tensor under its own name."""
    settled = {name: builder.name(value) for name, value in outputs.items()}
    nodes = _needed(builder.nodes, set(settled.values()))
    made = {tensor for node in nodes for tensor in node.output}
    renames: dict[str, str] = {}
    copies: list[NodeProto] = []
    for name, tensor in settled.items():
        if tensor in made and tensor not in renames:
            renames[tensor] = name
        else:
            copies.append(helper.make_node("Identity", [renames.get(tensor, tensor)], [name]))
    for node in nodes:
        node.input[:] = [renames.get(tensor, tensor) for tensor in node.input]
        node.output[:] = [renames.get(tensor, tensor) for tensor in node.output]
    return [*nodes, *copies]


def _external(name: str, dtype: int, shape: tuple[int, ...], span: Span) -> TensorProto:
    tensor = TensorProto(name=name, data_type=dtype, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (
        ("location", BASE_FILE),
        ("offset", str(span.offset)),
        ("length", str(span.length)),
    ):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, text
    return tensor


def finish(builder: Builder, outputs: Mapping[str, Value], spans: Mapping[str, Span]) -> ModelProto:
    """Close the graph. The builder must not be used any more.

    Args:
        builder: The graph under construction.
        outputs: Output name -> value, in order.
        spans: Where each frozen tensor lies in the base.
    """
    nodes = _named_outputs(builder, outputs)
    used = {tensor for node in nodes for tensor in node.input}
    initializers = [
        numpy_helper.from_array(array, name)
        for name, array in builder.constants.items()
        if name in used
    ]
    initializers += [
        _external(name, frozen.dtype, frozen.shape, spans[name])
        for name, frozen in builder.frozen.items()
        if name in used
    ]
    graph = helper.make_graph(
        nodes,
        "step",
        [
            helper.make_tensor_value_info(value.name, value.dtype, list(value.shape))
            for value in builder.inputs
        ],
        [
            helper.make_tensor_value_info(name, value.dtype, list(value.shape))
            for name, value in outputs.items()
        ],
        initializer=initializers,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )


def frozen_names(builder: Builder, outputs: Mapping[str, Value]) -> list[str]:
    """The frozen tensors that the outputs need, in the model's order."""
    nodes = _needed(builder.nodes, {builder.name(value) for value in outputs.values()})
    used = {tensor for node in nodes for tensor in node.input}
    return [name for name in builder.frozen if name in used]
