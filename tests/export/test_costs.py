"""Estimates from a configuration alone, against what an export really writes and a runtime really does."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from ravan_edge.artifact import open_artifact
from ravan_edge.artifact.signature import SIGNATURES
from ravan_edge.artifact.summary import heads_bytes, update_bytes
from ravan_edge.cli.inspect import inspect as device_inspect
from ravan_edge.errors import MissingExtraError, ModelError, UsageError
from ravan_export.costs import estimate, of_model
from ravan_export.costs.liveness import live_peak
from ravan_export.costs.sizes import tensor_sizes
from ravan_export.export import export_artifact
from ravan_export.outline import outlined
from ravan_export.settings import ExportSettings
from tests.cli.calls import ravan
from tests.contract.cases import CASES, Case, random_batch

BuildOnce = Callable[[str, Callable[[Path], None]], Path]
OPTIONS = ExportSettings(lora_budget=2)
_QUICK = {"bert", "t5", "llama"}
_OF_ALL = ("config.json", "modules.json", "1_Pooling", "2_Dense")


def without_weights(folder: Path, to: Path) -> Path:
    """The configuration, and how a sentence encoder pools."""
    to.mkdir()
    for name in _OF_ALL:
        if (folder / name).is_dir():
            shutil.copytree(folder / name, to / name)
        elif (folder / name).exists():
            shutil.copy(folder / name, to / name)
    path = to / "config.json"
    document = json.loads(path.read_text())
    if document["model_type"] == "mt5":
        # As published; transformers 5 writes that they are tied, and looks at the weights.
        path.write_text(json.dumps(document | {"tie_word_embeddings": False}))
    return to


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=f"{case.name}-{case.task}",
            marks=[] if case.name in _QUICK else pytest.mark.slow,
        )
        for case in CASES
    ],
)
def test_the_graph_from_a_configuration_is_the_one_an_export_writes(
    case: Case, build_once: BuildOnce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_once(f"contract-model-{case.name}-{case.task}", case.build)
    labels = case.labels if SIGNATURES[case.task].label_map else None
    artifact = tmp_path / "artifact"
    export_artifact(folder, case.task, labels, artifact, **{"lora_budget": 2, **case.options})
    steps: list[onnx.ModelProto] = []

    def keep(plan: Any, base: Any) -> onnx.ModelProto:
        steps.append(original(plan, base))
        return steps[-1]

    original = of_model._step
    monkeypatch.setattr(of_model, "_step", keep)
    options = ExportSettings(**{"lora_budget": 2, **case.options})
    found = estimate(
        without_weights(folder, tmp_path / "bare"), case.task, labels, options=options, batch=3,
        length=7,
    )  # fmt: skip
    written = (artifact / "plans" / "whole" / "step.onnx").read_bytes()
    assert steps[0].SerializeToString(deterministic=True) == written
    opened = open_artifact(artifact)
    manifest = opened.manifest
    assert found.graph_bytes == len(written)
    assert found.base_bytes == (artifact / "base.safetensors").stat().st_size
    assert found.heads_bytes == heads_bytes(manifest)
    assert found.upload_bytes == update_bytes(manifest)
    assert found.model.parameters == manifest.model.parameters
    assert (found.layers, found.tensors) == (manifest.layers, manifest.tensors)

    # Every tensor that onnxruntime makes is as large as was said; where only some positions of a text
    # count, it is no larger.
    batch = random_batch(case, manifest, 3, 7, seed=1)
    dims = {"batch": 3, "length": 7, "target_length": 7}
    dims |= {f"{layer.name}.heads": layer.heads for layer in manifest.layers}
    sizes = tensor_sizes(steps[0], dims)
    feed = {**batch.inputs, "labels": np.abs(batch.labels) % case.labels}
    real = _run_all(steps[0], artifact, feed, dims)
    assert len(real) > 100
    for name, array in real.items():
        if labels is None:
            assert array.nbytes <= sizes[name].bytes, name
        else:
            assert array.shape == sizes[name].shape, name
            assert array.nbytes == sizes[name].bytes, name


def _run_all(
    model: onnx.ModelProto, artifact: Path, feed: dict[str, Any], dims: dict[str, int]
) -> dict[str, Any]:
    """All results of all nodes."""
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    del seen.graph.output[:]
    seen.graph.output.extend(onnx.ValueInfoProto(name=node.output[0]) for node in seen.graph.node)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(artifact)
    )
    session = onnxruntime.InferenceSession(seen.SerializeToString(), options)
    inputs = {}
    for item in session.get_inputs():
        shape = [dims[size] if isinstance(size, str) else size for size in item.shape]
        inputs[item.name] = feed.get(item.name, np.full(shape, 0.1, np.float32))
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def test_the_peak_of_a_small_graph_is_the_one_counted_by_hand() -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["a"]),  # 40 bytes
        helper.make_node("Reshape", ["a", "shape"], ["b"]),  # a view
        helper.make_node("Concat", ["b", "b"], ["c"], axis=0),  # 80 more: 120
        helper.make_node("Tanh", ["c"], ["d"]),  # over c: b's memory is gone, 80
        helper.make_node("MatMul", ["d", "w"], ["e"]),  # [4, 50]: 800 more, 880
        helper.make_node("ReduceSum", ["e"], ["y"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [
            helper.make_tensor("shape", TensorProto.INT64, [2], [2, -1]),
            helper.make_tensor("w", TensorProto.FLOAT, [5, 50], [0.0] * 250),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    sizes = tensor_sizes(model, {"n": 10})
    assert [sizes[name].shape for name in "abcdey"] == [
        (10,), (2, 5), (4, 5), (4, 5), (4, 50), (),
    ]  # fmt: skip
    peak = live_peak(model, sizes)
    assert (peak.bytes, peak.operator) == (880, "MatMul")


def test_an_outline_keeps_ties_and_buffers_and_has_no_numbers() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(1 << 12, 1 << 12)
            self.second = torch.nn.Linear(1 << 12, 1 << 12)
            self.third = torch.nn.Linear(1 << 12, 1 << 12)
            self.third.weight = self.first.weight
            self.register_buffer("places", torch.arange(5))

    model = outlined(Tied)
    assert model.third.weight is model.first.weight
    assert model.first.weight.data_ptr() != model.second.weight.data_ptr()
    assert model.places.tolist() == [0, 1, 2, 3, 4]
    assert sum(item.untyped_storage().nbytes() for item in model.parameters()) == 5 * 4
    # Nothing stays behind for the models that are built next.
    assert not torch.nn.Linear(2, 2).weight.is_meta


def test_a_longer_batch_needs_more_and_other_numbers_change_what_travels(
    tiny_model: Callable[[str], Path],
) -> None:
    folder = tiny_model("bert")
    small = estimate(folder, options=OPTIONS, batch=1, length=8)
    large = estimate(folder, options=OPTIONS, batch=4, length=32)
    assert small.labels == large.labels == 3  # as config.json says
    assert large.live_bytes > 8 * small.live_bytes
    assert (small.base_bytes, small.graph_bytes) == (large.base_bytes, large.graph_bytes)
    more = estimate(folder, options=ExportSettings(heads=3, rank=7), batch=1, length=8)
    assert more.heads_bytes > small.heads_bytes
    assert {(layer.heads, layer.rank) for layer in more.layers} == {(3, 7)}
    with pytest.raises(UsageError, match="--length: 41, but the model takes at most 40"):
        estimate(folder, options=OPTIONS, batch=1, length=41)


def test_a_model_on_the_command_line(
    tiny_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bare = without_weights(tiny_model("bert"), tmp_path / "bare")
    words = ("--labels", 3, "--rank", 2, "--batch", 2, "--length", 16)
    shown = ravan(capsys, "inspect", bare, *words)
    assert shown.code == 0
    for text in ("not exported", "text-classification, 3 labels", "2 x 16", "download once: base"):
        assert text in shown.out
    document = ravan(capsys, "inspect", bare / "config.json", *words, "--json").document
    assert document["model"]["name"] == "bare"
    assert document["memory_bytes"] > document["live_bytes"] > 0
    assert document["layers"][0]["rank"] == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("bare", "--task", "causal-lm"), 3, "bert cannot be exported for causal-lm"),
        (("bare", "--task", "chess"), 2, "'chess' is no task"),
        (("bare", "--labels", "1"), 2, "--labels"),
        (("bare", "--length", "41"), 2, "--length: 41, but the model takes at most 40 tokens"),
        (("bare", "--batch", "0"), 2, "--batch"),
        (
            ("bare", "--length", "16", "--targets", "nothing"),
            3,
            "no linear layer is called 'nothing'",
        ),
        (("nowhere",), 3, "there is no such folder"),
        (("nowhere", "--heads", "3"), 2, "options of an export are for models"),
        (("./nowhere", "--task", "causal-lm"), 3, "there is no such model folder"),
    ],
)
def test_what_cannot_be_estimated_is_refused(
    words: tuple[str, ...],
    code: int,
    said: str,
    tiny_model: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_weights(tiny_model("bert"), tmp_path / "bare")
    monkeypatch.chdir(tmp_path)
    call = ravan(capsys, "inspect", *words)
    assert (call.code, call.out) == (code, "")
    assert said in call.err
    assert "Traceback" not in call.err


def test_an_artifact_is_inspected_as_before_and_takes_no_export_options(
    exported: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = exported("bert")
    assert ravan(capsys, "inspect", artifact.folder, "--json").document["digest"] == artifact.digest
    call = ravan(capsys, "inspect", artifact.folder, "--heads", "3")
    assert call.code == 2
    assert "options of an export are for models" in call.err


def test_without_the_exporter_its_extra_is_named(
    tiny_model: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tiny_model("bert")
    with pytest.raises(MissingExtraError, match="not exported yet"):
        device_inspect(folder)
    for name in ("ravan_export.costs", "ravan_export.costs.of_model"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    call = ravan(capsys, "inspect", folder)
    assert call.code == 8
    assert "pip install 'ravan-edge[export]'" in call.err


def test_a_configuration_that_builds_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 10, '
        '"num_attention_heads": 3}'
    )
    with pytest.raises(ModelError, match="no model can be built from it"):
        estimate(tmp_path, options=OPTIONS)
