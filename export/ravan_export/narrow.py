"""Computes only the token that is read: what a classifier's first token does not depend on is skipped.

A classifier that reads one token (the first, of BERT or ViT) needs of its last block that token's
query, attention, feed-forward layer and norms, and the keys and values of all. So ``select`` is
moved from where it stands towards the inputs, past every operator that treats tokens alike, until
it meets a value that is needed whole. Nothing is approximated, and the gradient is that of the
shorter program.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

import torch

__all__ = ["narrow"]

Node = torch.fx.Node


@dataclass(frozen=True, slots=True)
class Place:
    """One index of an axis: all that is needed of a value."""

    axis: int
    index: int

    def at(self, axis: int) -> Place:
        """The same index of another axis."""
        return Place(axis, self.index)


Needs = Mapping[Node, Place]
"""The operands of which one place suffices; of others the whole is needed."""


def _sizes(node: Node) -> tuple[str, ...]:
    value = node.meta.get("val")
    return tuple(map(str, value.shape)) if isinstance(value, torch.Tensor) else ()


def _pointwise(node: Node, place: Place) -> Needs:
    """Operands broadcast: those of size 1 along the axis serve as they are."""
    rank, needs = len(_sizes(node)), {}
    for operand in node.all_input_nodes:
        sizes = _sizes(operand)
        axis = place.axis - rank + len(sizes)
        if axis >= 0 and sizes[axis] != "1":
            needs[operand] = place.at(axis)
    return needs


def _one_operand(node: Node, place: Place) -> Needs:
    """The first operand has the axis where the result has it."""
    return {node.all_input_nodes[0]: place}


def _linear(node: Node, place: Place) -> Needs | None:
    return _one_operand(node, place) if place.axis < len(_sizes(node)) - 1 else None


def _layer_norm(node: Node, place: Place) -> Needs | None:
    over = len(node.args[1]) if isinstance(node.args[1], Sequence) else 1
    return _one_operand(node, place) if place.axis < len(_sizes(node)) - over else None


def _softmax(node: Node, place: Place) -> Needs | None:
    along = int(str(node.args[1])) % len(_sizes(node))
    return _one_operand(node, place) if place.axis != along else None


def _mean(node: Node, place: Place) -> Needs | None:
    x, axes = node.args[:2]
    if not isinstance(x, Node) or not isinstance(axes, Sequence) or True not in node.args[2:3]:
        return None
    over = {int(str(axis)) % len(_sizes(x)) for axis in axes}
    return None if place.axis in over else {x: place}


def _matmul(node: Node, place: Place) -> Needs | None:
    """A row of the product needs that row of the left operand, and all of the right one."""
    left, right = node.args[:2]
    rank = len(_sizes(node))
    if not isinstance(left, Node) or left is right or place.axis != rank - 2:
        return None
    return {left: place.at(len(_sizes(left)) - 2)}


def _view(node: Node, place: Place) -> Needs | None:
    """The axis and all before it, or all behind it, are the same."""
    before, after = _sizes(node.all_input_nodes[0]), _sizes(node)
    axis = place.axis
    if before[: axis + 1] == after[: axis + 1]:
        return _one_operand(node, place)
    behind = len(after) - axis
    if behind <= len(before) and before[-behind:] == after[-behind:]:
        return _one_operand(node, place.at(len(before) - behind))
    return None


def _permute(node: Node, place: Place) -> Needs:
    rank = len(_sizes(node))
    order = list(range(rank))
    if node.target == torch.ops.aten.permute.default:
        order = [int(str(axis)) % rank for axis in node.args[1]]  # type: ignore[union-attr]
    else:
        first, second = (int(str(axis)) for axis in node.args[1:3])
        order[first], order[second] = order[second], order[first]
    return _one_operand(node, place.at(order[place.axis]))


def _same_axis(node: Node, place: Place) -> Needs | None:
    """Every operand has the axis, in its full size: slices and joins along others."""
    size = _sizes(node)[place.axis]
    tensors = [item for item in node.all_input_nodes if _sizes(item)]
    if any(_sizes(item)[place.axis] != size for item in tensors):
        return None
    return dict.fromkeys(tensors, place)


def _cat(node: Node, place: Place) -> Needs | None:
    axis = int(str(node.args[1])) if len(node.args) > 1 else 0
    return _same_axis(node, place) if axis % len(_sizes(node)) != place.axis else None


_RULES: dict[str, Callable[[Node, Place], Needs | None]] = {
    **dict.fromkeys(
        (
            "add.Tensor", "sub.Tensor", "mul.Tensor", "mul.Scalar", "div.Tensor", "div.Scalar",
            "gelu.default", "tanh.default", "silu.default", "relu.default", "sigmoid.default",
            "neg.default", "rsqrt.default", "pow.Tensor_Scalar", "expand.default",
            "clone.default", "contiguous.default", "dropout.default", "to.dtype",
        ),
        _pointwise,
    ),
    **dict.fromkeys(
        ("view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints",
         "unflatten.int", "unsqueeze.default", "squeeze.dim"),
        _view,
    ),
    **dict.fromkeys(("transpose.int", "permute.default"), _permute),
    **dict.fromkeys(("softmax.int", "_softmax.default"), _softmax),
    "linear.default": _linear,
    "layer_norm.default": _layer_norm,
    "mean.dim": _mean,
    "matmul.default": _matmul,
    "slice.Tensor": _same_axis,
    "cat.default": _cat,
}  # fmt: skip


def _name(node: Node) -> str:
    return str(node.target).removeprefix("aten.") if node.op == "call_function" else ""


def _selected(node: Node) -> Needs | None:
    """What a ``select`` with a fixed index reads."""
    if _name(node) != "select.int":
        return None
    x, axis, index = node.args[:3]
    if not isinstance(x, Node) or not isinstance(axis, int) or not isinstance(index, int):
        return None
    return {x: Place(axis % len(_sizes(x)), index)}


def _plan(
    graph: torch.fx.Graph, checks: Container[str]
) -> tuple[dict[Node, Place], dict[Node, Needs]]:
    """The nodes of which one place suffices, and what these and ``select`` need."""
    places: dict[Node, Place] = {}
    needs: dict[Node, Needs] = {}
    for node in reversed(graph.nodes):
        selected = _selected(node)
        if selected is not None:
            needs[node] = selected
            continue
        readers = [user for user in node.users if str(user.target) not in checks]
        asked = {needs.get(user, {}).get(node) for user in readers}
        place = asked.pop() if len(asked) == 1 else None
        rule = _RULES.get(_name(node))
        if place is None or rule is None or not _sizes(node):
            continue
        found = rule(node, place)
        if found is not None:
            places[node], needs[node] = place, found
    return places, needs


def _shortened(value: torch.Tensor, axis: int) -> torch.Tensor:
    return value.select(axis, 0).unsqueeze(axis)


def _cut(graph: torch.fx.Graph, operand: Node, place: Place) -> Node:
    """One place of a value that is computed whole; the axis stays, with size 1."""
    value, aten = operand.meta["val"], torch.ops.aten
    with graph.inserting_after(operand):
        piece = graph.call_function(aten.select.int, (operand, place.axis, place.index))
    with graph.inserting_after(piece):
        kept = graph.call_function(aten.unsqueeze.default, (piece, place.axis))
    for made, shape in (
        (piece, value.select(place.axis, 0)),
        (kept, _shortened(value, place.axis)),
    ):
        made.meta = {**operand.meta, "val": shape}
    return kept


def narrow(graph: torch.fx.Graph, checks: Container[str]) -> None:
    """Move every ``select`` of a captured pass as far towards the inputs as it goes.

    Args:
        graph: Changed in place: sizes (``meta["val"]``) of the nodes that become shorter, and
            ``select`` nodes where whole values meet them. Arguments that repeat a size, of views, stay
            as they were.
        checks: Operators that compute nothing, by name: they may see a shorter value.
    """
    places, needs = _plan(graph, checks)
    cuts: dict[tuple[Node, Place], Node] = {}
    for node in list(graph.nodes):
        if node in places:
            for operand, place in needs[node].items():
                if operand in places:
                    continue
                key = operand, place
                if key not in cuts:
                    cuts[key] = _cut(graph, operand, place)
                node.replace_input_with(operand, cuts[key])
            node.meta["val"] = _shortened(node.meta["val"], places[node].axis)
        elif node in needs:  # a select
            ((operand, place),) = needs[node].items()
            if operand in places:
                node.target = torch.ops.aten.squeeze.dim
                node.args = (operand, place.axis)
