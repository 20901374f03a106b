"""The rules of section 6 of docs/artifact.md: what a graph of a plan may be."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ravan_edge.artifact.graph_file import GraphFile, GraphInitializer, GraphValue, read_graph
from ravan_edge.artifact.manifest import GraphTensor, Plan
from ravan_edge.artifact.signature import PlanForm
from ravan_edge.artifact.tensor_header import ELEMENT_BYTES, TensorHeader
from ravan_edge.errors import ArtifactError

__all__ = ["check_graphs", "graph_operators"]

_MAX_IR_VERSION = 10
_BASE = "base.safetensors"
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,15}")

# ONNX's numbers for the types a graph shares with a tensor file, and with the manifest.
_STORED = {
    1: "F32", 2: "U8", 3: "I8", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16", 11: "F64",
    16: "BF16",
}  # fmt: skip
_TYPE_NAMES = {1: "float32", 6: "int32", 7: "int64", 9: "bool"}


def graph_operators(graph: GraphFile) -> set[str]:
    """The graph's operators as the manifest lists them: ``ai.onnx:Gemm``."""
    return {f"{domain or 'ai.onnx'}:{name}" for domain, name in graph.operators}


def check_graphs(folder: Path, plan: Plan, base: TensorHeader, form: PlanForm) -> None:
    """Check every graph of a plan against the manifest and the base.

    The runtime of a plan whose host does not feed the bases has parameters of its own among its
    graphs' inputs, so those are not compared with the manifest's. ONNX files among its blobs (an
    optimiser) count as graphs.

    Args:
        folder: The artifact.
        plan: A plan of its manifest.
        base: The header of ``base.safetensors``.
        form: What such a plan may hold.

    Raises:
        ArtifactError: A graph breaks a rule; names the file and what was found.
    """
    ranges = {
        (base.data_offset + spec.begin, spec.end - spec.begin, spec.dtype)
        for spec in base.specs.values()
    }
    operators: set[str] = set()
    files: list[tuple[str | None, str]] = list(plan.graphs.items())
    files += [(None, path) for path in plan.blobs if path.endswith(".onnx")]
    for role, path in files:
        graph = read_graph(folder / path)
        for message in _violations(graph, plan, role if form.host_bases else None, form, ranges):
            raise ArtifactError(message, where=str(folder / path), hint="export the artifact again")
        operators |= graph_operators(graph)
    if operators != set(plan.operators):
        differing = ", ".join(map(repr, sorted(operators ^ set(plan.operators))[:5]))
        raise ArtifactError(
            f"the manifest's operators are not those of the graphs: {differing}",
            where=str(folder / "manifest.json"),
            hint="export the artifact again",
        )


def _violations(
    graph: GraphFile,
    plan: Plan,
    role: str | None,
    form: PlanForm,
    ranges: set[tuple[int, int, str]],
) -> Iterator[str]:
    if not 1 <= graph.ir_version <= _MAX_IR_VERSION:
        yield f"IR version {graph.ir_version}, expected at most {_MAX_IR_VERSION}"
    foreign = sorted(form.domains - {"", "ai.onnx"})
    own = [version for domain, version in graph.opsets if domain in {"", "ai.onnx"}]
    others = [domain for domain, _ in graph.opsets if domain not in {"", "ai.onnx"}]
    if len(own) != 1 or len(set(others)) != len(others) or not set(others) <= set(foreign):
        domains = ", ".join(repr(domain or "ai.onnx") for domain, _ in graph.opsets)
        more = f", at most with {', '.join(foreign)}" if foreign else ""
        yield f"opsets of {domains or 'no domain'}, expected one of ai.onnx{more}"
    elif own[0] != plan.opset:
        yield f"opset {own[0]}, expected {plan.opset}"
    for domain, name in graph.operators:
        if domain not in form.domains:
            outside = " and ".join(["ai.onnx", *foreign])
            yield f"operator {f'{domain}:{name}'!r}, expected none outside {outside}"
    if graph.functions:
        yield f"{graph.functions} local functions or training graphs, expected none"
    if graph.sparse:
        yield f"{graph.sparse} sparse tensors, expected none"
    if graph.texts:
        yield f"{graph.texts} doc strings or metadata entries, expected none"
    for tensor in graph.attribute_tensors:
        if tensor.external is not None:
            yield f"tensor {tensor.name!r} of a node is external data: only initializers may be"
    yield from _initializers(graph, ranges)
    if role is not None:
        yield from _values("input", graph.inputs, plan.inputs)
        yield from _values("output", graph.outputs, plan.outputs[role])


def _initializers(graph: GraphFile, ranges: set[tuple[int, int, str]]) -> Iterator[str]:
    # An initializer of an input's name would be its default: a host could forget to feed it.
    names = {value.name for value in graph.inputs}
    for tensor in graph.initializers:
        if tensor.name in names:
            yield f"initializer {tensor.name!r} has the name of an input or of another one"
        names.add(tensor.name)
        yield from _initializer(tensor, ranges)


def _initializer(tensor: GraphInitializer, ranges: set[tuple[int, int, str]]) -> Iterator[str]:
    where = f"initializer {tensor.name!r}"
    if any(dimension < 0 for dimension in tensor.dims):
        yield f"{where} has shape {list(tensor.dims)}"
    if tensor.external is None:
        return
    if tensor.external.get("location") != _BASE:
        yield f"{where} lies in {tensor.external.get('location')!r}, expected {_BASE!r}"
    if tensor.external.keys() != {"location", "offset", "length"}:
        yield f"{where}: external data needs exactly location, offset and length"
        return
    offset, length = tensor.external["offset"], tensor.external["length"]
    if not _DECIMAL.fullmatch(offset) or not _DECIMAL.fullmatch(length):
        yield f"{where}: offset {offset[:20]!r}, length {length[:20]!r}, expected numbers"
        return
    dtype = _STORED.get(tensor.dtype, "")
    if (int(offset), int(length), dtype) not in ranges:
        yield (
            f"{where}: {length} bytes at {offset} as {dtype or tensor.dtype} "
            f"are no tensor of {_BASE}"
        )
    elif math.prod(tensor.dims) * ELEMENT_BYTES[dtype] != int(length):
        yield f"{where}: shape {list(tensor.dims)} of {dtype} is not {length} bytes"


def _values(kind: str, found: Iterable[GraphValue], listed: Iterable[GraphTensor]) -> Iterator[str]:
    expected = {tensor.name: tensor for tensor in listed}
    for value in found:
        tensor = expected.pop(value.name, None)
        if tensor is None:
            yield f"{kind} {value.name!r} is not listed in the manifest, or is there twice"
            continue
        dtype = _TYPE_NAMES.get(value.dtype or 0, f"type {value.dtype}")
        if dtype != tensor.dtype or value.dims != tensor.shape:
            dims = "unknown shape" if value.dims is None else list(value.dims)
            yield (
                f"{kind} {value.name!r} is {dtype} {dims}, "
                f"expected {tensor.dtype} {list(tensor.shape)}"
            )
    for name in expected:
        yield f"{kind} {name!r} is missing"
