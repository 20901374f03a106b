"""What is in the graph files: plain operators, frozen numbers once, equal bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto

from ravan_export.export import export_artifact

ROLES = ("step", "eval")


def graph(artifact: Any, role: str) -> onnx.ModelProto:
    return onnx.load(artifact.graph_path("whole", role), load_external_data=False)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *((kind, "ravan") for kind in ("bert", "roberta", "distilbert", "sentence")),
        ("sentence", "fedit"),
        ("sentence", "head-only"),
    ],
)
def test_only_plain_operators_and_nothing_of_the_exporting_machine(
    kind: str, method: str, role: str, exported: Any
) -> None:
    model = graph(exported(kind, method=method), role)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
    assert model.ir_version <= 10
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert not model.metadata_props
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert [model.doc_string, model.producer_name, model.graph.doc_string] == ["", "", ""]


@pytest.mark.parametrize("role", ROLES)
def test_a_graph_passes_the_checker(role: str, exported: Any) -> None:
    artifact = exported("sentence", method="ravan")
    model = graph(artifact, role)
    for initializer in model.graph.initializer:
        if initializer.data_location == TensorProto.EXTERNAL:
            initializer.data_location = TensorProto.DEFAULT
            del initializer.external_data[:]
            initializer.raw_data = artifact.base[initializer.name].tobytes()
    onnx.checker.check_model(model, full_check=True)


def test_each_frozen_matrix_is_read_from_the_base_and_in_one_layout(exported: Any) -> None:
    artifact = exported("bert", method="ravan")
    for role in ROLES:
        model = graph(artifact, role)
        matrices = {
            item.name: item
            for item in model.graph.initializer
            if len(item.dims) > 1 and item.dims[0] > 1
        }
        ranges = {tuple(entry.value for entry in item.external_data) for item in matrices.values()}
        assert len(ranges) == len(matrices)
        assert all(item.data_location == TensorProto.EXTERNAL for item in matrices.values())
        readers = {
            (node.op_type, name)
            for node in model.graph.node
            for name in node.input
            if name in matrices
        }
        # Gather reads embedding tables; a Transpose would be folded into a second copy
        assert {kind for kind, _ in readers} <= {"Gemm", "Gather", "Slice"}
    names = [name for name in artifact.base if name.endswith(".weight")]
    assert not any("pooler" in name for name in names) or "bert" in artifact.manifest.model.family
    assert len(names) == len(set(names))


def test_nothing_below_the_first_adapted_layer_is_differentiated(exported: Any) -> None:
    """head-only: one product more than the evaluation has, for the task head's own gradient."""
    artifact = exported("sentence", method="head-only")
    counts = [
        sum(node.op_type in {"Gemm", "MatMul"} for node in graph(artifact, role).graph.node)
        for role in ROLES
    ]
    assert counts[0] == counts[1] + 1


def test_adapting_only_the_last_layer_needs_little_backward(exported: Any) -> None:
    last = "encoder.layer.1.attention.self.value"
    all_layers = graph(exported("sentence", method="ravan"), "step")
    one_layer = graph(exported("sentence", method="ravan", targets=last), "step")
    assert len(one_layer.graph.node) < 0.75 * len(all_layers.graph.node)


def test_dimensions_are_dynamic(exported: Any) -> None:
    plan = exported("sentence", method="ravan").manifest.plans["whole"]
    shapes = {tensor.name: tensor.shape for tensor in plan.inputs}
    assert shapes["input_ids"] == shapes["attention_mask"] == ("batch", "length")
    assert shapes["labels"] == ("batch",)
    layer = "encoder.layer.0.attention.self.query"
    rows = {shapes[f"{layer}.{name}"][0] for name in ("G", "A", "Bt")}
    assert len(rows) == 1
    assert isinstance(rows.pop(), str)
    assert "token_type_ids" not in shapes


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_export_has_the_same_bytes(exported: Any, tiny_model: Any, tmp_path: Path) -> None:
    first = exported("sentence", method="ravan", seed=7)
    second = export_artifact(
        tiny_model("sentence"), labels=3, out=tmp_path / "again", seed=7, lora_budget=2
    )
    before, after = files_of(first.folder), files_of(second.folder)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []
    assert second.digest == first.digest


def test_another_seed_has_other_bases(exported: Any) -> None:
    first = exported("sentence", method="ravan", seed=7)
    second = exported("sentence", method="ravan")
    assert first.base_digest != second.base_digest
    assert first.heads_digest == second.heads_digest  # a sentence encoder's heads start at zero
