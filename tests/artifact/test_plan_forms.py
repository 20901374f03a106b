"""What a manifest must say of a plan whose sizes are fixed, before a runtime is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ravan_edge.artifact.manifest import Manifest, parse_manifest
from ravan_edge.errors import ArtifactError
from tests.tiny_artifact import make_tiny_artifact

PROGRAM, DATA = "plans/executorch/step.pte", "plans/executorch/base.ptd"


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """A manifest with plan ``executorch``, made from plan ``whole``."""
    manifest = make_tiny_artifact(tmp_path / "tiny").manifest
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
    plan |= {
        "graphs": {"step": PROGRAM, "eval": PROGRAM},
        "blobs": [DATA],
        "opset": None,
        "limits": dict.fromkeys(dims, 8),
    }
    document["plans"]["executorch"] = plan
    for path in (PROGRAM, DATA):
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
