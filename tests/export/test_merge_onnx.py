"""``--to onnx``: one file that runs in stock onnxruntime, with nothing of the adapters left."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from ravan_edge.artifact import open_artifact
from ravan_edge.errors import ArtifactError, DataError
from ravan_export.export import export_artifact
from ravan_export.merge import merge_artifact, to_onnx
from ravan_export.merge.graph import fold_graph
from tests.export.merge_kit import TEXTS, artifact_logits, encoded, trained


def shipped_logits(folder: Path, artifact: Path) -> Any:
    """In stock onnxruntime, by the file's path alone."""
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    (logits,) = session.run(["logits"], encoded(open_artifact(artifact), TEXTS))
    return logits


@pytest.mark.parametrize(
    ("kind", "method", "form"),
    [
        ("bert", "ravan", "merged"),
        pytest.param("roberta", "ravan", "beside", marks=pytest.mark.slow),
        ("sentence", "ravan", "beside"),
        pytest.param("sentence", "fedit", "beside", marks=pytest.mark.slow),
        pytest.param("distilbert", "head-only", "", marks=pytest.mark.slow),
    ],
)
def test_the_graph_says_what_the_artifact_says(
    kind: str, method: str, form: str, with_heads: Any, tmp_path: Path
) -> None:
    # Small heads and few tokens are cheaper beside the layer.
    options = {"rank": 1, "heads": 2, "tokens": 1} if (method, form) == ("ravan", "beside") else {}
    case = with_heads(kind, method=method, **options)
    out = tmp_path / "out"
    merged = merge_artifact(case.artifact, case.heads, "onnx", out)
    expected = artifact_logits(case.artifact, case.heads)
    assert np.abs(shipped_logits(out, case.artifact) - expected).max() <= 1e-4
    assert merged.gap is not None
    assert merged.gap.logits <= 1e-4

    before = onnx.load(case.artifact / "plans/whole/eval.onnx", load_external_data=False)
    graph = onnx.load(out / "model.onnx").graph
    assert [item.name for item in graph.input] == ["input_ids", "attention_mask"]
    assert [item.name for item in graph.output] == ["logits"]
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    names |= {item.name for item in graph.initializer}
    assert not [name for name in names if name.endswith((".A", ".Bt", ".G", "lora_A", "lora_B"))]
    layers = open_artifact(case.artifact).manifest.layers
    products = [node for node in graph.node if node.op_type == "Gemm"]
    old = [node for node in before.graph.node if node.op_type == "Gemm"]
    # W + B C; or x C and (x C) B, as in the last query of a classifier that reads one token.
    extra = {"merged": len(layers) + 1, "beside": 2 * len(layers), "": 0}[form]
    assert len(products) == len(old) - extra
    assert not [node for node in graph.node if node.op_type in {"LogSoftmax", "ArgMax"}]


def test_what_ships_beside_the_graph(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("roberta")
    out = tmp_path / "out"
    merge_artifact(case.artifact, case.heads, "onnx", out)
    assert sorted(path.name for path in out.iterdir()) == [
        "labels.json", "model.onnx", "ravan_merge.json", "settings.json", "tokenizer.json",
    ]  # fmt: skip
    manifest = open_artifact(case.artifact).manifest
    assert json.loads((out / "labels.json").read_text()) == list(manifest.labels)
    assert json.loads((out / "settings.json").read_text()) == {
        "task": "text-classification",
        "inputs": ["input_ids", "attention_mask"],
        "max_length": 40,
        "pad_id": 1,
    }
    tokenizer = (case.artifact / "tokenizer" / "tokenizer.json").read_bytes()
    assert (out / "tokenizer.json").read_bytes() == tokenizer


def test_equal_input_is_equal_bytes(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("bert")
    for name in ("one", "two"):
        merge_artifact(case.artifact, case.heads, "onnx", tmp_path / name)
    one, two = ((tmp_path / name / "model.onnx").read_bytes() for name in ("one", "two"))
    assert one == two


def test_weights_that_do_not_fit_into_one_file(
    with_heads: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_onnx, "_ONE_FILE_BYTES", 1000)
    case = with_heads("bert")
    out = tmp_path / "out"
    merged = merge_artifact(case.artifact, case.heads, "onnx", out)
    assert merged.files["model.onnx.data"] > merged.files["model.onnx"]
    expected = artifact_logits(case.artifact, case.heads)
    assert np.abs(shipped_logits(out, case.artifact) - expected).max() <= 1e-4
    with pytest.raises(ArtifactError, match="too large for the quantisation"):
        merge_artifact(case.artifact, case.heads, "onnx", tmp_path / "q", quantise="int8")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_int8(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("bert")
    out = tmp_path / "out"
    merged = merge_artifact(case.artifact, case.heads, "onnx", out, quantise="int8")
    graph = onnx.load(out / "model.onnx").graph
    kinds = [node.op_type for node in graph.node]
    # Every product with a frozen matrix, the classifier and the pooler among them.
    assert kinds.count("MatMulInteger") >= 2 * 6 + 2
    assert "Gemm" not in kinds
    assert merged.gap is not None
    assert merged.gap.rows == 256
    assert merged.gap.agreement > 0.9
    assert merged.details["float_bytes"] > 0
    assert sorted(path.name for path in out.iterdir()) == [
        "labels.json", "model.onnx", "ravan_merge.json", "settings.json", "tokenizer.json",
    ]  # fmt: skip
    expected = artifact_logits(case.artifact, case.heads)
    gap = np.abs(shipped_logits(out, case.artifact) - expected).max()
    assert 1e-4 < gap < 0.3


def test_it_is_compared_on_texts_of_the_user(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("bert")
    path = tmp_path / "mails.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((text, "x") for text in TEXTS)])
    merged = merge_artifact(
        case.artifact, case.heads, "onnx", tmp_path / "a", data=path, quantise="int8"
    )
    assert merged.gap is not None
    assert merged.gap.rows == len(TEXTS)
    merged = merge_artifact(case.artifact, case.heads, "onnx", tmp_path / "b", data=path)
    assert merged.gap is not None
    assert (merged.gap.rows, merged.gap.agree) == (len(TEXTS), len(TEXTS))
    with pytest.raises(DataError):
        merge_artifact(
            case.artifact, case.heads, "onnx", tmp_path / "c", data=tmp_path / "nowhere.csv"
        )
    assert not (tmp_path / "c").exists()


def graph_of(*nodes: Any, outputs: tuple[str, ...] = ("logits",)) -> onnx.ModelProto:
    def info(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None])

    inputs = [info(name) for name in ("x", "q.lora_A", "q.lora_B")]
    weight = helper.make_tensor("q.weight", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    graph = helper.make_graph(
        list(nodes), "g", inputs, [info(name) for name in outputs], initializer=[weight]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    "nodes",
    [
        # a merged weight with a factor
        [
            helper.make_node("Gemm", ["q.lora_B", "q.lora_A", "q.weight"], ["w"], alpha=2.0),
            helper.make_node("MatMul", ["x", "w"], ["logits"]),
        ],
        # a sum whose first operand is no product with the layer's weight
        [
            helper.make_node("MatMul", ["x", "q.lora_A"], ["z"]),
            helper.make_node("Relu", ["x"], ["y"]),
            helper.make_node("Add", ["y", "z"], ["logits"]),
        ],
        # an adapter that is never added
        [helper.make_node("MatMul", ["x", "q.lora_A"], ["logits"])],
    ],
)
def test_an_adapter_in_another_form_is_refused(nodes: list[Any]) -> None:
    weights = {"q.weight": np.zeros((2, 2), np.float32)}
    with pytest.raises(ArtifactError, match="folded"):
        fold_graph(graph_of(*nodes), weights, {}, ["x"], {})


def test_a_graph_without_logits_is_refused() -> None:
    node = helper.make_node("Relu", ["x"], ["loss_sum"])
    with pytest.raises(ArtifactError, match="no output 'logits'") as caught:
        fold_graph(graph_of(node, outputs=("loss_sum",)), {}, {}, ["x"], {})
    assert "--to hf" in (caught.value.hint or "")


def test_heads_of_which_some_are_zero(copied: Any, tmp_path: Path) -> None:
    export_artifact(copied("bert"), labels=3, out=tmp_path / "a", lora_budget=2)
    artifact = open_artifact(tmp_path / "a")
    heads = trained(artifact, tmp_path / "heads.safetensors", size=0.0)
    merged = merge_artifact(tmp_path / "a", heads, "onnx", tmp_path / "out")
    assert merged.gap is not None
    assert merged.gap.logits <= 1e-5


def test_it_needs_no_torch(with_heads: Any, tmp_path: Path) -> None:
    case = with_heads("bert")
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None)\n"
        "from ravan_export.merge import merge_artifact\n"
        "merged = merge_artifact(sys.argv[1], sys.argv[2], 'onnx', sys.argv[3], quantise='int8')\n"
        "print(merged.to)"
    )
    words = [str(case.artifact), str(case.heads), str(tmp_path / "out")]
    finished = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, check=False, text=True
    )
    assert finished.stdout == "onnx\n", finished.stderr
