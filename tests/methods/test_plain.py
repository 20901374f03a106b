from __future__ import annotations

import numpy as np
import pytest

from ravan_edge.artifact.manifest import Layer, MethodSettings, Role
from ravan_edge.methods import ParameterLayout, Plain, Ravan, fedit_table, method_for
from tests.tiny_artifact import Method, make_tiny_artifact
from tests.training.linear_model import head_only_method, random_heads


def test_parameters_are_the_graph_inputs() -> None:
    method = head_only_method()
    heads = random_heads(method, 4)
    training = method.training(heads, None)
    graph = method.to_graph(heads, training)
    assert graph.keys() == {"task_head.weight", "task_head.bias"}
    assert method.to_params(heads, graph, training).tobytes() == heads.tobytes()
    assert method.fold(heads).tobytes() == heads.tobytes()
    assert not method.difference(heads, heads, training).any()
    assert method.head_norms(graph) == {}
    assert method.heads_per_layer == 0


def test_there_are_no_heads_to_choose() -> None:
    method = head_only_method()
    with pytest.raises(ValueError, match="no heads to choose"):
        method.training(random_heads(method), {"layer": np.array([0], np.int32)})


def test_fedit_trains_a_and_b_of_each_layer() -> None:
    table = fedit_table([Layer(name="q", outputs=6, inputs=8, heads=1, rank=2)])
    assert [(entry.name, entry.role, entry.shape) for entry in table] == [
        ("q.lora_A", Role.LORA_A, (2, 8)),
        ("q.lora_B", Role.LORA_B, (6, 2)),
    ]
    assert Plain(ParameterLayout.from_table(table)).layout.size == 2 * 8 + 6 * 2


@pytest.mark.parametrize(
    ("name", "kind"), [("ravan", Ravan), ("fedit", Plain), ("head-only", Plain)]
)
def test_the_manifest_names_the_method(
    name: Method, kind: type, tmp_path_factory: pytest.TempPathFactory
) -> None:
    manifest = make_tiny_artifact(tmp_path_factory.mktemp(name) / "a", method=name).manifest
    assert isinstance(manifest.method, MethodSettings)
    method = method_for(manifest)
    assert type(method) is kind
    assert [segment.name for segment in method.layout.segments] == [
        entry.name for entry in manifest.tensors
    ]
