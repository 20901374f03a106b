"""The pieces of a graph that XNNPACK computes, chosen so that they cannot wait for each other.

ExecuTorch's own choice joins any two pieces that it may, compares each pair, and in a large graph (a LLaMA
of 12 layers) ends with pieces that need each other's results; it finds that out when it cuts them, and
refuses. Here each operation has a stage, and a piece is all that XNNPACK takes of one stage: no circle can
come to be, in a single pass over the graph.

It is the second choice only: on MiniLM-L6 at 8 x 64 both end with as many pieces, plan as much memory
and take the same time, but the process takes 239 MB with these and 195 MB with ExecuTorch's own. Why is not
known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx.passes.infra.partitioner import Partition

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from torch.export import ExportedProgram
    from torch.fx import Node

__all__ = ["piece_partitioner", "pieces"]


def _stages(order: Sequence[Node], taken: Collection[Node]) -> dict[Node, int]:
    """How often one has to change between the two sides on the way to the end; odd where taken.

    It never grows along an edge, and a change of sides makes it smaller: a way out of a stage does not
    lead back.
    """
    stages: dict[Node, int] = {}
    for node in reversed(order):
        inside = node in taken
        later = (
            stages[user] + (inside != (user in taken)) for user in node.users if user in stages
        )
        stages[node] = max(later, default=int(inside))
    return stages


def pieces(order: Sequence[Node], groups: Iterable[Sequence[Node]]) -> list[list[Node]]:
    """What XNNPACK takes, cut so that a piece needs only results of earlier ones.

    Args:
        order: Every operation of the graph, each after what it needs.
        groups: Operations that are taken together or not at all, no operation in two; with the frozen
            numbers that XNNPACK shall own, which are not in ``order`` and go with their group.

    Returns:
        The pieces in the order in which they run, each with its frozen numbers first. A group that no
        single piece can hold is in none: it is left to ExecuTorch's own kernels.
    """
    operations = set(order)
    kept = list(groups)
    while True:
        taken = {node for group in kept for node in group if node in operations}
        stages = _stages(order, taken)
        whole = [group for group in kept if len({stages[n] for n in group if n in taken}) == 1]
        if len(whole) == len(kept):
            break
        kept = whole  # what is left out changes the stages of the others
    found: dict[int, list[Node]] = {
        stage: [] for stage in sorted({stages[node] for node in taken}, reverse=True)
    }
    for group in kept:
        stage = next(stages[node] for node in group if node in taken)
        found[stage] += [node for node in group if node not in taken]
    for node in order:
        if node in taken:
            found[stages[node]].append(node)
    return list(found.values())


def piece_partitioner() -> XnnpackPartitioner:
    """A partitioner of everything that XNNPACK takes, in :func:`pieces`."""
    # Imported here: ExecuTorch is an extra, and warns while it is imported.
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    class PiecePartitioner(XnnpackPartitioner):  # type: ignore[misc]  # ExecuTorch's has no types
        def generate_partitions(self, ep: ExportedProgram) -> list[Partition]:
            order = [node for node in ep.graph.nodes if node.op == "call_function"]
            found = pieces(order, self.get_matched_nodes_from_configs(ep))
            return [Partition(id=number, nodes=nodes) for number, nodes in enumerate(found)]

    return PiecePartitioner()
