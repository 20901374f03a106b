"""The pieces that XNNPACK computes: on graphs made by hand, and in a program whose gradients are checked."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest
from torch.fx import Graph, Node

from ravan_edge.artifact import open_artifact
from ravan_edge.errors import ModelError
from ravan_export.export import export_artifact
from ravan_export.plans.xnnpack_pieces import pieces
from tests.contract.cases import CASES

BuildOnce = Callable[[str, Callable[[Path], None]], Path]
CASE = next(case for case in CASES if case.name == "sentence")


def graph_of(needs: Sequence[Sequence[int]]) -> list[Node]:
    """Operation k needs those of ``needs[k]``, all before it."""
    graph = Graph()
    made: list[Node] = []
    for places in needs:
        made.append(graph.call_function(operator.add, tuple(made[place] for place in places)))
    return made


def names(order: Sequence[Node], found: Sequence[Sequence[Node]]) -> list[list[int]]:
    return [[order.index(node) for node in piece] for piece in found]


def test_two_branches_are_one_piece() -> None:
    order = graph_of([[], [0], [0], [1, 2]])
    assert names(order, pieces(order, [[node] for node in order])) == [[0, 1, 2, 3]]


def test_a_way_out_and_back_parts_a_piece() -> None:
    """0 and 2 may not be one: 1, which XNNPACK does not take, lies between."""
    order = graph_of([[], [0], [1, 0]])
    assert names(order, pieces(order, [[order[0]], [order[2]]])) == [[0], [2]]


def test_what_lies_between_in_the_order_alone_parts_nothing() -> None:
    order = graph_of([[], [], [0]])
    assert names(order, pieces(order, [[order[0]], [order[2]]])) == [[0, 2]]


def test_pieces_that_would_need_each_other_are_not_made() -> None:
    """0 and 5 could be one, and so could 1 and 4; both at once would be a circle: 0-2-4 and 1-3-5."""
    order = graph_of([[], [], [0], [1], [2], [3]])
    taken = [[order[place]] for place in (0, 1, 4, 5)]
    assert names(order, pieces(order, taken)) == [[0, 1], [4, 5]]


def test_a_group_torn_apart_is_left_out_and_what_it_parted_grows_together() -> None:
    """0 and 2 only together, with 1 between them: neither is taken. 3 and 4 do not depend on them."""
    order = graph_of([[], [0], [1], [], [3]])
    found = pieces(order, [[order[0], order[2]], [order[3]], [order[4]]])
    assert names(order, found) == [[3, 4]]


def test_frozen_numbers_go_with_their_group() -> None:
    order = graph_of([[], [0], [1]])
    number = Graph().placeholder("weight")
    found = pieces(order, [[order[0]], [order[2], number]])
    assert found == [[order[0]], [number, order[2]]]


def test_nothing_taken_is_no_piece() -> None:
    assert pieces(graph_of([[], [0]]), []) == []


@pytest.mark.parametrize("seed", range(50))
def test_no_circle_in_any_graph(seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = graph_of(
        [
            sorted({int(place) for place in rng.integers(0, k, min(k, int(rng.integers(0, 4))))})
            if k
            else []
            for k in range(60)
        ]
    )
    taken = [node for node in order if rng.random() < 0.6]
    found = pieces(order, [[node] for node in taken])
    assert sorted(place for piece in names(order, found) for place in piece) == sorted(
        order.index(node) for node in taken
    )
    home: dict[Node, object] = {node: node for node in order}
    home |= {node: number for number, piece in enumerate(found) for node in piece}
    uses: dict[object, set[object]] = {place: set() for place in home.values()}
    for node in order:
        uses[home[node]] |= {home[before] for before in node.all_input_nodes} - {home[node]}
    sorted_places = list(TopologicalSorter(uses).static_order())  # raises CycleError
    places = [place for place in sorted_places if isinstance(place, int)]
    assert set(places) == set(range(len(found)))


def refuse_with(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ExecuTorch's own choice of pieces ends with this."""

    def refuse(self: object, program: object) -> object:
        del self, program
        raise AssertionError(message)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ExecuTorch's, while it is imported
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    monkeypatch.setattr(XnnpackPartitioner, "generate_partitions", refuse)


@pytest.mark.slow
def test_where_executorchs_own_pieces_form_a_circle_others_are_cut(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, build_once: BuildOnce
) -> None:
    """The export compares loss and gradients of the program with the original model's."""
    refuse_with("Invalid partition, found dependency cycles", monkeypatch)
    model = build_once(f"contract-model-{CASE.name}-{CASE.task}", CASE.build)
    export_artifact(
        model, CASE.task, CASE.labels, tmp_path / "new", plans=("whole", "executorch"),
        lora_budget=2, plan_rows=4, plan_length=16,
    )  # fmt: skip
    plan = open_artifact(tmp_path / "new").manifest.plans["executorch"]
    assert "delegate:XnnpackBackend" in plan.operators
    assert not [name for name in plan.operators if name.startswith("aten::addmm")]
    assert plan.worst_error is not None
    assert 0 < plan.worst_error <= 1e-5


@pytest.mark.slow
def test_another_assertion_of_executorchs_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, build_once: BuildOnce
) -> None:
    refuse_with("another reason", monkeypatch)
    model = build_once(f"contract-model-{CASE.name}-{CASE.task}", CASE.build)
    with pytest.raises(ModelError, match="cannot lower it: AssertionError: another reason") as seen:
        export_artifact(
            model, CASE.task, CASE.labels, tmp_path / "new", plans=("whole", "executorch"),
            lora_budget=2, plan_rows=4, plan_length=16,
        )  # fmt: skip
    assert seen.value.exit_code == 3
    assert not (tmp_path / "new").exists()
