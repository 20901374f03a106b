"""Abuses of graphs: each stands in for ``plans/whole/step.onnx`` of ``files/valid``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
from onnx import TensorProto, helper

from tests.attacks.attack import Attack

__all__ = ["graph_attacks"]


def _external(model: onnx.ModelProto) -> onnx.TensorProto:
    """The layer's weight, whose bytes are in the base."""
    return next(tensor for tensor in model.graph.initializer if tensor.external_data)


def _place(model: onnx.ModelProto, key: str, value: str) -> None:
    for entry in _external(model).external_data:
        if entry.key == key:
            entry.value = value


def _branch(node: onnx.NodeProto) -> onnx.GraphProto:
    value = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [])
    return helper.make_graph([node], "branch", [], [value])


def _subgraph(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Hide a node in the branch of an If."""
    condition = helper.make_tensor("condition", TensorProto.BOOL, [], [True])
    model.graph.initializer.append(condition)
    model.graph.node.append(
        helper.make_node(
            "If", ["condition"], ["hidden"], then_branch=_branch(node), else_branch=_branch(node)
        )
    )


def _nested(model: onnx.ModelProto, depth: int) -> None:
    node = helper.make_node("Constant", [], ["hidden"], value_float=1.0)
    for _ in range(depth):
        node = helper.make_node(
            "If", ["count"], ["hidden"], then_branch=_branch(node), else_branch=_branch(node)
        )
        del node.attribute[1]  # one branch is enough, two would double every level
    model.graph.node.append(node)


def _sparse(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


def _sparse_attribute(model: onnx.ModelProto) -> None:
    _sparse(model)
    sparse = model.graph.sparse_initializer.pop()
    model.graph.node.append(helper.make_node("Constant", [], ["x"], sparse_value=sparse))


def _attribute_external(model: onnx.ModelProto) -> None:
    tensor = TensorProto()
    tensor.CopyFrom(_external(model))
    model.graph.node.append(helper.make_node("Constant", [], ["x"], value=tensor))


def _function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["a"], ["b"])
    opset = helper.make_opsetid("", 18)
    model.functions.append(helper.make_function("", "Gemm", ["a"], ["b"], [node], [opset]))


def _add_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("secret", TensorProto.FLOAT, [1]))


def _add_output(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["input_ids"], ["copy"]))
    model.graph.output.append(
        helper.make_tensor_value_info("copy", TensorProto.INT64, ["batch", "length"])
    )


def _initializer_input(model: onnx.ModelProto) -> None:
    """An initializer of an input's name is that input's default: it need not be fed."""
    tensor = helper.make_tensor("labels", TensorProto.INT64, [1], [0])
    model.graph.initializer.append(tensor)


_CASES: tuple[tuple[str, str, str, Callable[[onnx.ModelProto], object]], ...] = (
    ("foreign-domain", "an operator of another domain", "com.example:Evil",
     lambda m: m.graph.node.append(helper.make_node("Evil", [], ["x"], domain="com.example"))),
    ("foreign-opset", "an opset of another domain is imported", "com.example",
     lambda m: m.opset_import.append(helper.make_opsetid("com.example", 1))),
    ("operator-control", "an operator whose name clears the terminal", "\\x1b",
     lambda m: m.graph.node.append(helper.make_node("\x1b[2J", [], ["x"], domain="e"))),
    ("ml-domain", "the domain ai.onnx.ml", "ai.onnx.ml",
     lambda m: m.graph.node.append(helper.make_node("Scaler", [], ["x"], domain="ai.onnx.ml"))),
    ("subgraph-foreign", "an operator of another domain inside an If", "com.example:Evil",
     lambda m: _subgraph(m, helper.make_node("Evil", [], ["x"], domain="com.example"))),
    ("subgraph-external", "external data in a node inside an If", "external data",
     lambda m: _subgraph(m, helper.make_node("Constant", [], ["x"], value=_external(m)))),
    ("nested-graphs", "graphs nested 12 deep", "nested deeper", lambda m: _nested(m, 12)),
    ("opset-19", "opset 19", "19", lambda m: setattr(m.opset_import[0], "version", 19)),
    ("opset-missing", "no opset", "no domain", lambda m: m.ClearField("opset_import")),
    ("opset-twice", "two opsets of ai.onnx", "opsets",
     lambda m: m.opset_import.append(helper.make_opsetid("", 17))),
    ("ir-version", "IR version 11", "11", lambda m: setattr(m, "ir_version", 11)),
    ("function", "a local function that replaces Gemm", "functions", _function),
    ("training-info", "a training graph", "training", lambda m: m.training_info.add()),
    ("doc-string", "a doc string", "doc strings",
     lambda m: setattr(m.graph.node[0], "doc_string", "file of the exporting machine")),
    ("metadata", "metadata", "metadata",
     lambda m: m.metadata_props.add(key="k", value="v")),
    ("sparse-initializer", "a sparse initializer", "sparse", _sparse),
    ("sparse-attribute", "a sparse tensor in a node", "sparse", _sparse_attribute),
    ("attribute-external", "external data in a node", "external data", _attribute_external),
    ("external-parent", "external data in the folder above", "outside",
     lambda m: _place(m, "location", "../outside")),
    ("external-absolute", "external data by an absolute path", "hostname",
     lambda m: _place(m, "location", "/etc/hostname")),
    ("external-dot", "the base by another path", "./base.safetensors",
     lambda m: _place(m, "location", "./base.safetensors")),
    ("external-heads", "another file of the artifact", "heads.safetensors",
     lambda m: _place(m, "location", "heads.safetensors")),
    ("external-memory", "a runtime's own word for memory it was given", "_ORT_MEM_ADDR_",
     lambda m: _place(m, "location", "*/_ORT_MEM_ADDR_/*")),
    ("external-outside", "a range outside the base", "no tensor of base",
     lambda m: _place(m, "offset", "1000000000")),
    ("external-header", "a range in the base's header", "no tensor of base",
     lambda m: _place(m, "offset", "0")),
    ("external-shifted", "a range across two tensors", "no tensor of base",
     lambda m: _place(m, "offset", str(int(_external(m).external_data[1].value) + 4))),
    ("external-short", "a part of a tensor", "no tensor of base",
     lambda m: _place(m, "length", "4")),
    ("external-negative", "a negative offset", "expected numbers",
     lambda m: _place(m, "offset", "-64")),
    ("external-hex", "an offset in hexadecimal", "expected numbers",
     lambda m: _place(m, "offset", "0x40")),
    ("external-huge", "an offset beyond 64 bits", "expected numbers",
     lambda m: _place(m, "offset", "9" * 30)),
    ("external-no-length", "no length", "exactly",
     lambda m: _external(m).external_data.pop()),
    ("external-twice", "two locations", "twice",
     lambda m: _external(m).external_data.add(key="location", value="base.safetensors")),
    ("external-checksum", "a key more", "exactly",
     lambda m: _external(m).external_data.add(key="checksum", value="x")),
    ("external-hidden", "external data without the flag for it", "outside",
     lambda m: (_place(m, "location", "../outside"), _external(m).ClearField("data_location"))),
    ("external-shape", "shape and range differ", "encoder.dense.weight",
     lambda m: _external(m).dims.append(2)),
    ("external-dtype", "int32 where the base has float32", "encoder.dense.weight",
     lambda m: setattr(_external(m), "data_type", TensorProto.INT32)),
    ("shape-negative", "an initializer with negative dimensions", "-1",
     lambda m: m.graph.initializer.append(TensorProto(name="n", data_type=1, dims=[-1, -4]))),
    ("input-more", "an input that is not listed", "secret", _add_input),
    ("input-missing", "labels are not taken", "labels",
     lambda m: m.graph.input.remove(next(v for v in m.graph.input if v.name == "labels"))),
    ("input-twice", "an input twice", "labels",
     lambda m: m.graph.input.append(next(v for v in m.graph.input if v.name == "labels"))),
    ("input-default", "an initializer stands in for an input", "labels", _initializer_input),
    ("output-more", "an output that hands out the inputs", "copy", _add_output),
    ("input-dtype", "input_ids of type float", "input_ids",
     lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT)),
)  # fmt: skip


def graph_attacks(valid: bytes) -> Iterator[Attack]:
    for name, tries, says, edit in _CASES:
        model = onnx.ModelProto.FromString(valid)
        edit(model)
        content = model.SerializeToString(deterministic=True)
        yield Attack(f"graphs/{name}.onnx", tries, says, content)
    for name, tries, says, content in (
        ("empty", "no bytes", "no graph", b""),
        ("cut", "cut off in the middle", "step.onnx", valid[: len(valid) // 2]),
        ("text", "a text file", "ONNX", b"This is no graph.\n"),
        ("unknown-field", "a field that onnx.proto has not", "field 99", valid + b"\x98\x06\x01"),
        ("group", "a group, which onnx.proto never has", "wire type 3", valid + b"\x3b\x3c"),
        ("two-graphs", "two graphs, which protobuf merges", "twice", valid + valid),
        ("endless-number", "a number of eleven bytes", "number", b"\x08" + b"\xff" * 11),
        ("length-huge", "a graph of 2^62 bytes", "ONNX", b"\x3a" + b"\x80" * 8 + b"\x40"),
    ):
        yield Attack(f"graphs/{name}.onnx", tries, says, content)
