"""``--quantise int8``: weights as int8, activations quantised as they come, by onnxruntime's tool."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from ravan_edge.errors import ArtifactError, MissingExtraError

__all__ = ["quantise_int8"]


def quantise_int8(model: ModelProto, path: Path) -> None:
    """Write an int8 version of an inference graph.

    One scale per output channel of a matrix, one per embedding table. Weights use 7 of the 8 bits:
    processors without VNNI add pairs of products in 16 bits, which would overflow.

    Args:
        model: With all its numbers inside; is changed.
        path: Where to; a temporary file of the tool may lie beside it for a while.

    Raises:
        ArtifactError: Its weights did not fit into one file.
        MissingExtraError: This onnxruntime comes without its quantisation tools.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise MissingExtraError(
            "onnxruntime's quantisation tools cannot be imported",
            hint="pip install 'ravan-edge[export]'",
        ) from error
    if any(item.external_data for item in model.graph.initializer):
        raise ArtifactError(
            "the model is too large for the quantisation tool, which takes at most 2 GB",
            where="--quantise",
            hint="leave it out",
        )
    _plain_products(model)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises steps that are done already
    try:
        quantize_dynamic(
            model, str(path), weight_type=QuantType.QInt8, per_channel=True, reduce_range=True
        )
    finally:
        root.setLevel(level)


def _plain_products(model: ModelProto) -> None:
    """Gemm(x, W, alpha, transB) as MatMul(x, alpha W^T), the only product the tool quantises."""
    graph = model.graph
    numbers = {item.name: item for item in graph.initializer}
    made: dict[str, None] = {}
    nodes: list[NodeProto] = []
    for node in graph.node:
        options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        frozen = numbers.get(node.input[1]) if node.op_type == "Gemm" else None
        if frozen is None or len(node.input) != 2 or options.get("transA"):
            nodes.append(node)
            continue
        alpha, turned = options.get("alpha", 1.0), bool(options.get("transB"))
        name = f"{frozen.name}.{'t' if turned else 'n'}{alpha!r}"
        if name not in made:
            weight = numpy_helper.to_array(frozen)
            product = (weight.T if turned else weight) * np.float32(alpha)
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(product), name))
            made[name] = None
        nodes.append(helper.make_node("MatMul", [node.input[0], name], list(node.output)))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
