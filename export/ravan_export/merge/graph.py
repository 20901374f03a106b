"""An evaluation graph turned into an inference graph: merged weights, no adapter, no labels.

The graph is rewritten as it lies in the artifact, so this needs no model and no torch, and what
ships is what was trained and checked. Adapters appear in it in two forms (``ravan_export.adapters``):

    merged   W' = W + B C once per step, then x W'      -> W' becomes an initializer
    beside   x W + (x C) B                              -> the sum becomes its first operand, W becomes W'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ravan_edge.errors import ArtifactError

__all__ = ["fold_graph"]

_PRODUCTS = ("Gemm", "MatMul")
_ADAPTERS = ("G", "A", "Bt", "lora_A", "lora_B")

Float32 = NDArray[np.float32]


@dataclass(slots=True)
class _Folding:
    """The state of one pass over the nodes.

    Args:
        weights: Merged weight of each layer, by the frozen weight's name.
        varying: Values that depend on the batch.
        adapter: Values that belong to an adapter: they come from its inputs and are not folded yet.
        renamed: Values that are now another one.
        made: New initializers.
        nodes: What is kept.
    """

    weights: Mapping[str, Float32]
    varying: set[str]
    adapter: dict[str, str]
    renamed: dict[str, str] = field(default_factory=dict)
    made: dict[str, Float32] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)

    def step(self, node: NodeProto) -> None:
        """Keep, rewrite or drop one node."""
        inputs = [self.renamed.get(name, name) for name in node.input]
        layers = {self.adapter[name] for name in inputs if name in self.adapter}
        varies = any(name in self.varying for name in inputs)
        if not layers:
            kept = NodeProto()
            kept.CopyFrom(node)
            kept.input[:] = inputs
            self.nodes.append(kept)
            if varies:
                self.varying.update(node.output)
            return
        (layer,) = layers if len(layers) == 1 else (_unknown(node),)
        weight = f"{layer}.weight"
        if not varies and weight in inputs:
            self._merged(node, weight)
        elif varies and node.op_type == "Add" and self._plain(inputs):
            self._bypass(node, self._plain(inputs), weight)
        else:
            self.adapter.update(dict.fromkeys(node.output, layer))
            if varies:
                self.varying.update(node.output)

    def _merged(self, node: NodeProto, weight: str) -> None:
        """``node`` makes W + B C: its output is the merged weight."""
        scales = {item.name: item.f for item in node.attribute if item.name in {"alpha", "beta"}}
        if node.op_type != "Gemm" or any(scale != 1 for scale in scales.values()):
            raise _unknown(node)
        self.made[node.output[0]] = self.weights[weight]

    def _plain(self, inputs: Iterable[str]) -> str:
        """The one operand that does not come from an adapter; empty if there is none."""
        plain = [name for name in inputs if name not in self.adapter]
        return plain[0] if len(plain) == 1 and plain[0] in self.varying else ""

    def _bypass(self, node: NodeProto, plain: str, weight: str) -> None:
        """``node`` adds an adapter to a layer's product: the product takes the merged weight."""
        for product in reversed(self.nodes):
            if plain in product.output:
                break
        else:
            raise _unknown(node)
        if product.op_type not in _PRODUCTS or product.input[1] != weight:
            raise _unknown(node)
        merged = f"{weight}.merged"
        product.input[1] = merged
        self.made[merged] = self.weights[weight]
        self.renamed[node.output[0]] = plain


def _unknown(node: NodeProto) -> ArtifactError:
    return ArtifactError(
        f"the adapter cannot be folded at {node.op_type} -> {node.output[0]!r}",
        where="eval.onnx",
        hint="export the artifact again with this version, or take --to hf",
    )


def _needed(nodes: list[NodeProto], outputs: set[str]) -> list[NodeProto]:
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def fold_graph(
    model: ModelProto,
    weights: Mapping[str, Float32],
    values: Mapping[str, Float32],
    batch: Iterable[str],
    frozen: Mapping[str, bytes | memoryview],
    output: str = "logits",
) -> ModelProto:
    """The inference graph ``batch -> output`` of an evaluation graph, with all its numbers inside.

    Args:
        model: The evaluation graph; its frozen tensors are external data.
        weights: ``<layer>.weight`` -> merged weight [m, n].
        values: Trained inputs that stay tensors of their own: the task head.
        batch: Names of the inputs that stay inputs.
        frozen: External initializer -> its bytes.
        output: The one output.

    Raises:
        ArtifactError: The graph has no such output, or an adapter in a form that is not known.
    """
    graph = model.graph
    outputs = {item.name: item for item in graph.output}
    if output not in outputs:
        raise ArtifactError(
            f"the evaluation graph has no output {output!r}", where="eval.onnx",
            hint="tasks without a label map go through --to hf",
        )  # fmt: skip
    inputs = {item.name: item for item in graph.input}
    folding = _Folding(
        weights,
        varying={name for name in inputs if name not in values},
        adapter={
            f"{name.removesuffix('.weight')}.{kind}": name.removesuffix(".weight")
            for name in weights
            for kind in _ADAPTERS
        },
    )
    folding.varying -= set(folding.adapter)
    for node in graph.node:
        folding.step(node)
    if output in folding.adapter:
        raise ArtifactError(f"{output!r} cannot be folded: an adapter makes it", where="eval.onnx")
    if output in folding.renamed:
        folding.nodes.append(helper.make_node("Identity", [folding.renamed[output]], [output]))
    nodes = _needed(folding.nodes, {output})
    used = {name for node in nodes for name in node.input}
    initializers = [_inside(item, frozen) for item in graph.initializer if item.name in used]
    for name, array in {**folding.made, **values}.items():
        if name in used:
            initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    kept = [inputs[name] for name in batch if name in inputs]
    known = {item.name for item in (*initializers, *kept)}
    lost = used - known - {name for node in nodes for name in node.output} - {""}
    if lost:
        raise ArtifactError(f"the folded graph still reads {min(lost)!r}", where="eval.onnx")
    made = helper.make_graph(nodes, "model", kept, [outputs[output]], initializer=initializers)
    return helper.make_model(
        made, opset_imports=list(model.opset_import), ir_version=model.ir_version
    )


def _inside(item: TensorProto, frozen: Mapping[str, bytes | memoryview]) -> TensorProto:
    if item.data_location != TensorProto.EXTERNAL:
        return item
    return TensorProto(
        name=item.name,
        data_type=item.data_type,
        dims=item.dims,
        raw_data=bytes(frozen[item.name]),
    )
