"""Reading rows by index: embeddings and gathers. Tables are frozen."""

from __future__ import annotations

from ravan_export.graph import Var
from ravan_export.rules.registry import Call, rule

__all__: list[str] = []


@rule("aten.embedding.default")
def embedding(call: Call, table: Var, index: Var, *_: object) -> Var:
    """Rows of a table."""
    if table.needs_grad:
        raise call.refuse(
            "a trained embedding table", "only adapted linear layers and the task head train"
        )
    builder = call.builder
    names = [table.value.name, builder.name(index.value)]
    return call.tape.record(builder.op("Gather", names, call.shape, table.value.dtype, axis=0))


@rule("aten.gather.default")
def gather(call: Call, x: Var, axis: int, index: Var) -> Var:
    """One element for each index."""
    if x.needs_grad:
        raise call.refuse(
            "a gather from trained values", "this needs a gradient in rules/lookup.py"
        )
    builder = call.builder
    names = [builder.name(x.value), builder.name(index.value)]
    axis %= len(x.value.shape)
    return call.tape.record(
        builder.op("GatherElements", names, call.shape, x.value.dtype, axis=axis)
    )
