"""What an ONNX model file holds, as far as a reader must know before a runtime loads it.

Devices have no onnx package; this reads the few things that section 6 of docs/artifact.md is about.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ravan_edge.artifact.graph_wire import WireReader
from ravan_edge.errors import ArtifactError
from ravan_edge.files import storage_errors

__all__ = [
    "GRAPH_MAX_BYTES",
    "GraphFile",
    "GraphInitializer",
    "GraphValue",
    "read_graph",
    "read_graph_bytes",
]

GRAPH_MAX_BYTES = 64 << 20
_MAX_DEPTH = 8  # graphs inside attributes of nodes of graphs ...
_MAX_DIMENSIONS = 8
_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL


@dataclass(frozen=True, slots=True)
class GraphValue:
    """An input or output: its ONNX element type and dimensions.

    A dimension is a number, a name, or None where it is not known; ``dims`` is None where the rank
    is not known, ``dtype`` None where it is no tensor.
    """

    name: str
    dtype: int | None
    dims: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class GraphInitializer:
    """A constant tensor. ``external`` has location, offset, ... if its bytes are elsewhere."""

    name: str
    dtype: int
    dims: tuple[int, ...]
    external: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class GraphFile:
    """One model file.

    Inputs and outputs are the main graph's. Initialisers, operators and counts are of the main
    graph and all graphs inside it.

    Attributes:
        ir_version: The version of the file format.
        opsets: (domain, version) of each import.
        inputs: The main graph's inputs.
        outputs: The main graph's outputs.
        initializers: Constants, dense ones.
        attribute_tensors: Tensors that are attributes of nodes.
        operators: (domain, name) of every node, sorted, each once.
        nodes: How many nodes.
        functions: How many local functions and training graphs.
        sparse: How many sparse tensors.
        texts: How many doc strings and metadata entries.
    """

    ir_version: int
    opsets: tuple[tuple[str, int], ...]
    inputs: tuple[GraphValue, ...]
    outputs: tuple[GraphValue, ...]
    initializers: tuple[GraphInitializer, ...]
    attribute_tensors: tuple[GraphInitializer, ...]
    operators: tuple[tuple[str, str], ...]
    nodes: int
    functions: int
    sparse: int
    texts: int


def read_graph(path: Path) -> GraphFile:
    """Read an ONNX file.

    Raises:
        ArtifactError: It is no ONNX file, too large or too deep.
        StorageError: It cannot be read.
    """
    where = os.fspath(path)
    with storage_errors(path, "read the file"), path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > GRAPH_MAX_BYTES:
            raise ArtifactError(
                f"{status.st_size} bytes, expected a file of at most {GRAPH_MAX_BYTES}",
                where=where,
                hint="export the artifact again: weights belong into base.safetensors",
            )
        return read_graph_bytes(file.read(GRAPH_MAX_BYTES + 1), where=where)


def read_graph_bytes(data: bytes, *, where: str = "graph") -> GraphFile:
    """Read the bytes of an ONNX file.

    Raises:
        ArtifactError: They are no ONNX file, too many, or nested too deeply.
    """
    if len(data) > GRAPH_MAX_BYTES:
        raise ArtifactError(f"more than {GRAPH_MAX_BYTES} bytes", where=where)
    return _Parser(WireReader(data, where)).model()


@dataclass(slots=True)
class _Parser:
    """Collects what all graphs of a file hold while it descends."""

    wire: WireReader
    initializers: list[GraphInitializer] = field(default_factory=list)
    attribute_tensors: list[GraphInitializer] = field(default_factory=list)
    operators: set[tuple[str, str]] = field(default_factory=set)
    nodes: int = 0
    functions: int = 0
    sparse: int = 0
    texts: int = 0

    def model(self) -> GraphFile:
        wire = self.wire
        ir_version = 0
        opsets = []
        graph: tuple[list[GraphValue], list[GraphValue]] | None = None
        for number, a, b in wire.fields("model", 0, len(wire.data)):
            match number:
                case 1:
                    ir_version = a
                case 7:
                    graph = self._graph(a, b, depth=1)
                case 8:
                    opsets.append(self._opset(a, b))
                case 6 | 14:
                    self.texts += 1
                case 20 | 25:
                    self.functions += 1
        if graph is None:
            raise wire.refuse("not an ONNX file: there is no graph in it")
        return GraphFile(
            ir_version=ir_version,
            opsets=tuple(opsets),
            inputs=tuple(graph[0]),
            outputs=tuple(graph[1]),
            initializers=tuple(self.initializers),
            attribute_tensors=tuple(self.attribute_tensors),
            operators=tuple(sorted(self.operators)),
            nodes=self.nodes,
            functions=self.functions,
            sparse=self.sparse,
            texts=self.texts,
        )

    def _opset(self, begin: int, end: int) -> tuple[str, int]:
        domain, version = "", 0
        for number, a, b in self.wire.fields("opset", begin, end):
            if number == 1:
                domain = self.wire.text(a, b)
            else:
                version = a
        return domain, version

    def _graph(self, begin: int, end: int, depth: int) -> tuple[list[GraphValue], list[GraphValue]]:
        if depth > _MAX_DEPTH:
            raise self.wire.refuse(f"graphs are nested deeper than {_MAX_DEPTH}")
        inputs: list[GraphValue] = []
        outputs: list[GraphValue] = []
        for number, a, b in self.wire.fields("graph", begin, end):
            match number:
                case 1:
                    self._node(a, b, depth)
                case 5:
                    self.initializers.append(self._tensor(a, b))
                case 11:
                    inputs.append(self._value(a, b))
                case 12:
                    outputs.append(self._value(a, b))
                case 13:
                    self._value(a, b)
                case 15:
                    self.sparse += 1
                case 10 | 16:
                    self.texts += 1
        return inputs, outputs

    def _node(self, begin: int, end: int, depth: int) -> None:
        domain = operator = ""
        for number, a, b in self.wire.fields("node", begin, end):
            match number:
                case 4:
                    operator = self.wire.text(a, b)
                case 5:
                    self._attribute(a, b, depth)
                case 7:
                    domain = self.wire.text(a, b)
                case 6 | 9:
                    self.texts += 1
        self.nodes += 1
        self.operators.add((domain, operator))

    def _attribute(self, begin: int, end: int, depth: int) -> None:
        for number, a, b in self.wire.fields("attribute", begin, end):
            match number:
                case 5 | 10:
                    self.attribute_tensors.append(self._tensor(a, b))
                case 6 | 11:
                    self._graph(a, b, depth + 1)
                case 13:
                    self.texts += 1
                case 22 | 23:
                    self.sparse += 1

    def _tensor(self, begin: int, end: int) -> GraphInitializer:
        wire = self.wire
        name, dtype, location = "", 0, 0
        dims: list[int] = []
        external: dict[str, str] = {}
        for number, a, b in wire.fields("tensor", begin, end):
            match number:
                case 1:
                    dims += [self._signed(value) for value in wire.numbers(a, b, _MAX_DIMENSIONS)]
                    if len(dims) > _MAX_DIMENSIONS:
                        raise wire.refuse(f"a tensor has more than {_MAX_DIMENSIONS} dimensions")
                case 2:
                    dtype = self._enum(a)
                case 8:
                    name = wire.text(a, b)
                case 13:
                    key, value = self._entry(a, b)
                    if key in external:
                        raise wire.refuse(f"initializer {name!r}: {key!r} is there twice")
                    external[key] = value
                case 14:
                    location = self._enum(a)
                case 12 | 16:
                    self.texts += 1
        # Either sign of external data makes it external: a reader may look at one or the other.
        is_external = bool(external) or location == _EXTERNAL
        return GraphInitializer(name, dtype, tuple(dims), external if is_external else None)

    def _entry(self, begin: int, end: int) -> tuple[str, str]:
        key = value = ""
        for number, a, b in self.wire.fields("entry", begin, end):
            if number == 1:
                key = self.wire.text(a, b)
            else:
                value = self.wire.text(a, b)
        return key, value

    def _value(self, begin: int, end: int) -> GraphValue:
        name = ""
        dtype: int | None = None
        dims: tuple[int | str | None, ...] | None = None
        for number, a, b in self.wire.fields("value", begin, end):
            match number:
                case 1:
                    name = self.wire.text(a, b)
                case 2:
                    dtype, dims = self._type(a, b)
                case 3 | 4:
                    self.texts += 1
        return GraphValue(name, dtype, dims)

    def _type(self, begin: int, end: int) -> tuple[int | None, tuple[int | str | None, ...] | None]:
        dtype: int | None = None
        dims: tuple[int | str | None, ...] | None = None
        kinds = 0
        for number, a, b in self.wire.fields("type", begin, end):
            if number != 6:
                kinds += 1
            if number == 1:
                dtype = 0
                for inner, c, d in self.wire.fields("tensor type", a, b):
                    if inner == 1:
                        dtype = self._enum(c)
                    else:
                        dims = self._dims(c, d)
        if kinds > 1:  # a oneof: the last would win
            raise self.wire.refuse("a value has two types")
        return dtype, dims

    def _dims(self, begin: int, end: int) -> tuple[int | str | None, ...]:
        dims: list[int | str | None] = []
        for _, a, b in self.wire.fields("shape", begin, end):
            dim: int | str | None = None
            for number, c, d in self.wire.fields("dimension", a, b):
                if number == 3:
                    continue
                if dim is not None:
                    raise self.wire.refuse("a dimension has both a number and a name")
                dim = self._signed(c) if number == 1 else self.wire.text(c, d)
            dims.append(dim)
            if len(dims) > _MAX_DIMENSIONS:
                raise self.wire.refuse(f"a value has more than {_MAX_DIMENSIONS} dimensions")
        return tuple(dims)

    def _enum(self, value: int) -> int:
        if value >= 1 << 31:  # protobuf would cut it to 32 bits
            raise self.wire.refuse(f"a type of number {value}")
        return value

    @staticmethod
    def _signed(value: int) -> int:
        return value - (1 << 64) if value >> 63 else value
