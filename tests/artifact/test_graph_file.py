"""Our reader of ONNX files against the onnx package, and against changed bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ravan_edge.artifact.graph_file import (
    GraphFile,
    GraphInitializer,
    GraphValue,
    read_graph_bytes,
)
from ravan_edge.errors import ArtifactError
from tests.attacks.make_attacks import FILES

words = st.text(max_size=6)
dims = st.lists(st.one_of(st.integers(0, 2**62), words.filter(bool), st.none()), max_size=5)
floats = [TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL]


@st.composite
def values(draw: st.DrawFn) -> onnx.ValueInfoProto:
    shape = draw(st.one_of(st.none(), dims))
    value = helper.make_tensor_value_info(draw(words), draw(st.sampled_from(floats)), shape)
    value.doc_string = draw(st.sampled_from(["", "", "a text"]))
    return value


@st.composite
def constants(draw: st.DrawFn) -> onnx.TensorProto:
    tensor = TensorProto(
        name=draw(words), data_type=draw(st.sampled_from(floats)),
        dims=draw(st.lists(st.integers(-3, 2**40), max_size=4)),
    )  # fmt: skip
    match draw(st.integers(0, 3)):
        case 0:
            tensor.raw_data = draw(st.binary(max_size=9))
        case 1:
            tensor.float_data.extend(draw(st.lists(st.floats(width=32), max_size=3)))
        case 2:
            tensor.int64_data.extend(draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)))
        case 3:
            tensor.data_location = TensorProto.EXTERNAL
            for key in draw(st.lists(words, max_size=3, unique=True)):
                tensor.external_data.add(key=key, value=draw(words))
    return tensor


@st.composite
def nodes(draw: st.DrawFn, depth: int = 2) -> onnx.NodeProto:
    node = helper.make_node(
        draw(words), draw(st.lists(words, max_size=3)), draw(st.lists(words, max_size=2)),
        domain=draw(st.sampled_from(["", "ai.onnx", "com.example"])),
    )  # fmt: skip
    attributes: list[object] = [
        draw(st.integers(-(2**63), 2**63 - 1)), 1.5, "text", [1, 2, 3], [0.5], ["a", "b"],
        draw(constants()),
    ]  # fmt: skip
    if depth:
        attributes.append(draw(graphs(depth=depth - 1)))
    for number, value in enumerate(attributes):
        if draw(st.booleans()):
            node.attribute.append(helper.make_attribute(f"a{number}", value))
    return node


@st.composite
def graphs(draw: st.DrawFn, depth: int = 2) -> onnx.GraphProto:
    return helper.make_graph(
        draw(st.lists(nodes(depth=depth), max_size=2)),
        "graph",
        draw(st.lists(values(), max_size=3)),
        draw(st.lists(values(), max_size=2)),
        draw(st.lists(constants(), max_size=3)),
        doc_string=draw(st.sampled_from(["", "a text"])) or None,
        value_info=draw(st.lists(values(), max_size=1)),
    )


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    model = helper.make_model(
        draw(graphs()),
        opset_imports=[
            helper.make_opsetid(draw(words), draw(st.integers(0, 30)))
            for _ in range(draw(st.integers(0, 2)))
        ],
        ir_version=draw(st.integers(0, 12)),
        producer_name=draw(words),
    )
    if draw(st.booleans()):
        model.metadata_props.add(key="k", value="v")
    return model


def value_of(value: onnx.ValueInfoProto) -> GraphValue:
    kind = value.type.tensor_type
    shape: tuple[int | str | None, ...] | None = None
    if kind.HasField("shape"):
        shape = tuple(
            getattr(dim, dim.WhichOneof("value")) if dim.WhichOneof("value") else None
            for dim in kind.shape.dim
        )
    return GraphValue(value.name, kind.elem_type, shape)


def constant_of(tensor: onnx.TensorProto) -> GraphInitializer:
    external = {entry.key: entry.value for entry in tensor.external_data}
    is_external = bool(external) or tensor.data_location == TensorProto.EXTERNAL
    dims = tuple(tensor.dims)
    return GraphInitializer(tensor.name, tensor.data_type, dims, external if is_external else None)


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from all_graphs(inner)


def by_onnx(content: bytes) -> GraphFile:
    """The same, read with the onnx package."""
    model = onnx.ModelProto.FromString(content)
    inside = list(all_graphs(model.graph))
    all_nodes = [node for graph in inside for node in graph.node]
    attributes = [attribute for node in all_nodes for attribute in node.attribute]
    held = [tensor for graph in inside for tensor in graph.initializer]
    in_attributes = [a.t for a in attributes if a.HasField("t")]
    in_attributes += [tensor for a in attributes for tensor in a.tensors]
    listed = [value for g in inside for value in (*g.input, *g.output, *g.value_info)]
    everything = [*inside, *all_nodes, *attributes, *held, *in_attributes, *listed]
    texts = [part.HasField("doc_string") for part in everything]
    return GraphFile(
        ir_version=model.ir_version,
        opsets=tuple((opset.domain, opset.version) for opset in model.opset_import),
        inputs=tuple(value_of(value) for value in model.graph.input),
        outputs=tuple(value_of(value) for value in model.graph.output),
        initializers=tuple(constant_of(tensor) for tensor in held),
        attribute_tensors=tuple(constant_of(tensor) for tensor in in_attributes),
        operators=tuple(sorted({(node.domain, node.op_type) for node in all_nodes})),
        nodes=len(all_nodes),
        functions=len(model.functions) + len(model.training_info),
        sparse=sum(len(graph.sparse_initializer) for graph in inside),
        texts=sum(texts) + model.HasField("doc_string") + len(model.metadata_props),
    )


def sorted_tensors(graph: GraphFile) -> GraphFile:
    """The order among graphs inside graphs is nobody's concern."""
    return replace(
        graph,
        initializers=tuple(sorted(graph.initializers, key=repr)),
        attribute_tensors=tuple(sorted(graph.attribute_tensors, key=repr)),
    )


@settings(max_examples=60)
@given(models())
def test_equal_to_the_onnx_package(model: onnx.ModelProto) -> None:
    content = model.SerializeToString()
    assert sorted_tensors(read_graph_bytes(content)) == sorted_tensors(by_onnx(content))


@pytest.mark.parametrize("role", ["step", "eval"])
def test_a_real_graph(role: str) -> None:
    content = (FILES / "valid" / "plans" / "whole" / f"{role}.onnx").read_bytes()
    graph = read_graph_bytes(content)
    assert graph == by_onnx(content)
    assert {tensor.name for tensor in graph.initializers if tensor.external} == {
        "embedding.weight", "encoder.dense.weight", "encoder.dense.bias",
    }  # fmt: skip


STEP = (FILES / "valid" / "plans" / "whole" / "step.onnx").read_bytes()


@settings(max_examples=200)
@given(st.integers(0, len(STEP)), st.binary(max_size=6), st.integers(0, 8))
def test_changed_bytes_end_in_a_refusal_or_in_what_onnx_reads(
    at: int, put: bytes, cut: int
) -> None:
    changed = STEP[:at] + put + STEP[at + cut :]
    try:
        found = read_graph_bytes(changed)
    except ArtifactError:
        return
    assert found == by_onnx(changed)


@given(st.binary(max_size=80))
def test_random_bytes_end_in_a_refusal(content: bytes) -> None:
    with contextlib.suppress(ArtifactError):
        read_graph_bytes(b"\x3a" + bytes([len(content)]) + content)


def test_packed_and_single_dimensions_are_the_same() -> None:
    packed = b"\x3a\x07\x2a\x05\x0a\x02\x02\x03\x10\x01"[:11]
    single = b"\x3a\x08\x2a\x06\x08\x02\x08\x03\x10\x01"
    assert read_graph_bytes(single).initializers[0].dims == (2, 3)
    assert read_graph_bytes(b"\x3a\x08\x2a\x06" + packed[4:]).initializers[0].dims == (2, 3)


def test_too_many_fields() -> None:
    nodes = b"\x0a\x00" * 2_100_000
    size = len(nodes)
    length = bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21])
    with pytest.raises(ArtifactError, match="more than 2000000 fields"):
        read_graph_bytes(b"\x3a" + length + nodes)
