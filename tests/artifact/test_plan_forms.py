"""What a manifest must say of a plan, before a runtime is asked: fixed sizes, fixed paths."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ravan_edge.artifact.manifest import Manifest, parse_manifest
from ravan_edge.errors import ArtifactError
from tests.tiny_artifact import make_tiny_artifact

NATIVE = {
    "step": "plans/ort-training/training_model.onnx",
    "eval": "plans/ort-training/eval_model.onnx",
}
NATIVE_BLOBS = ["plans/ort-training/checkpoint", "plans/ort-training/optimizer_model.onnx"]
PROGRAM, DATA = "plans/executorch/step.pte", "plans/executorch/base.ptd"


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """A manifest with plan ``executorch``, made from plan ``whole``."""
    manifest = make_tiny_artifact(tmp_path / "tiny").manifest
    return with_plan(manifest, "executorch")


def with_plan(manifest: Manifest, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(manifest.to_bytes())
    heads = {layer.name: layer.heads for layer in manifest.layers}
    bases = {basis.name for basis in manifest.bases}
    plan = json.loads(json.dumps(document["plans"]["whole"]))
    plan["inputs"] = [item for item in plan["inputs"] if item["name"] not in bases]
    for item in (*plan["inputs"], *plan["outputs"]["step"]):
        layer = item["name"].removeprefix("grad.").removesuffix(".G")
        if layer in heads:
            item["shape"][0] = heads[layer]
    dims = {dim for item in plan["inputs"] for dim in item["shape"] if isinstance(dim, str)}
    if name == "executorch":
        plan |= {
            "graphs": {"step": PROGRAM, "eval": PROGRAM},
            "blobs": [DATA],
            "opset": None,
            "limits": dict.fromkeys(dims, 8),
        }
    else:
        plan |= {"graphs": dict(NATIVE), "blobs": ["base.safetensors", *NATIVE_BLOBS]}
    document["plans"][name] = plan
    for path in {*plan["graphs"].values(), *plan["blobs"]} - set(document["files"]):
        document["files"][path] = {"sha256": "0" * 64, "size": 1}
    return document


def parsed(document: dict[str, Any]) -> Manifest:
    return parse_manifest(json.dumps(document).encode())


def test_a_plan_of_fixed_sizes(document: dict[str, Any]) -> None:
    assert parsed(document).plans["executorch"].limits["batch"] == 8


def _without_limits(plan: dict[str, Any]) -> None:
    plan["limits"] = {}


def _one_limit_too_few(plan: dict[str, Any]) -> None:
    plan["limits"].pop("batch")


def _too_large(plan: dict[str, Any]) -> None:
    plan["limits"] = dict.fromkeys(plan["limits"], 1 << 20)


def _no_data(plan: dict[str, Any]) -> None:
    plan["blobs"] = []


def _dynamic_heads(plan: dict[str, Any]) -> None:
    for item in plan["inputs"]:
        if item["name"].endswith(".G"):
            item["shape"][0] = "K"
    plan["limits"]["K"] = 4


def _other_names(plan: dict[str, Any]) -> None:
    for item in (*plan["inputs"], *plan["outputs"]["eval"]):
        item["shape"] = ["rows" if dim == "batch" else dim for dim in item["shape"]]
    plan["limits"]["rows"] = plan["limits"].pop("batch")


def _opset(plan: dict[str, Any]) -> None:
    plan["opset"] = 18


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_limits, "limits of"),
        (_one_limit_too_few, "limits of"),
        (_too_large, "more than 268435456 numbers"),
        (_no_data, "0 blobs"),
        (_dynamic_heads, "expected batch first"),
        (_other_names, "expected batch first"),
        (_opset, "opset 18, expected None"),
    ],
)
def test_what_would_reach_the_runtime_is_refused(
    document: dict[str, Any], spoil: Callable[[dict[str, Any]], None], message: str
) -> None:
    spoil(document["plans"]["executorch"])
    with pytest.raises(ArtifactError, match=message) as caught:
        parsed(document)
    assert "plan 'executorch'" in str(caught.value)


def test_a_plan_of_any_size_has_no_limits(document: dict[str, Any]) -> None:
    document["plans"]["whole"]["limits"] = {"batch": 8, "length": 8}
    with pytest.raises(ArtifactError, match="plan 'whole': limits of"):
        parsed(document)


# -- ort-training: its runtime looks for files by their names -------------------------------------


@pytest.fixture
def native(tmp_path: Path) -> dict[str, Any]:
    """A manifest with plan ``ort-training``, made from plan ``whole``."""
    return with_plan(make_tiny_artifact(tmp_path / "tiny").manifest, "ort-training")


def test_files_at_their_paths(native: dict[str, Any]) -> None:
    assert parsed(native).plans["ort-training"].graphs == NATIVE


@pytest.mark.parametrize("role", sorted(NATIVE))
@pytest.mark.parametrize("place", ["step.onnx", "plans/ort-training/other.onnx"])
def test_a_graph_at_another_path_is_refused(native: dict[str, Any], role: str, place: str) -> None:
    """The file that is listed would be checked, and another one loaded."""
    native["plans"]["ort-training"]["graphs"][role] = place
    native["files"].setdefault(place, {"sha256": "0" * 64, "size": 1})
    with pytest.raises(
        ArtifactError, match=f"graph '{role}' is '{place}', expected '{NATIVE[role]}'"
    ):
        parsed(native)


def test_graphs_that_are_exchanged_are_refused(native: dict[str, Any]) -> None:
    graphs = native["plans"]["ort-training"]["graphs"]
    graphs["step"], graphs["eval"] = graphs["eval"], graphs["step"]
    with pytest.raises(ArtifactError, match="expected 'plans/ort-training/"):
        parsed(native)


@pytest.mark.parametrize("blob", NATIVE_BLOBS)
def test_a_file_that_the_runtime_opens_must_be_listed(native: dict[str, Any], blob: str) -> None:
    native["plans"]["ort-training"]["blobs"].remove(blob)
    with pytest.raises(ArtifactError, match=f"plan 'ort-training': blob '{blob}' is not listed"):
        parsed(native)
