"""A captured forward pass -> nodes of an ONNX graph, on a tape that can be run backwards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from ravan_edge.errors import ModelError
from ravan_export.capture import CHECKS, Program, layer_of, operator_name
from ravan_export.graph import Tape, Value, Var
from ravan_export.graph.value import BOOL, FLOAT, INT32, INT64, Dim, Shape
from ravan_export.rules import RULES, Call
from ravan_export.rules.registry import Adapter

__all__ = ["ELEMENT_TYPES", "INLINE_LIMIT", "frozen_name", "translate"]

INLINE_LIMIT = 16 * 1024
"""Integer buffers (position numbers) up to this many bytes are stored inside the graph."""

ELEMENT_TYPES = {
    torch.float32: FLOAT,
    torch.int64: INT64,
    torch.int32: INT32,
    torch.bool: BOOL,
}
_INTEGER_ARITHMETIC = {"add": "Add", "sub": "Sub", "mul": "Mul", "floordiv": "Div"}


class _Translator:
    """Walks the program once."""

    def __init__(
        self,
        program: Program,
        tape: Tape,
        batch: Mapping[str, Value],
        trainables: Mapping[str, Var],
        adapters: Mapping[str, Adapter],
    ) -> None:
        self.program = program
        self.tape = tape
        self.batch = batch
        self.trainables = trainables
        self.adapters = adapters
        self.vars: dict[torch.fx.Node, Var] = {}
        self.leaves: dict[int, Var] = {}

    def dim(self, size: int | torch.SymInt) -> Dim:
        """A dimension of torch's as one of the graph's."""
        if isinstance(size, int):
            return size
        text = str(size)
        for symbol, name in self.program.dims.items():
            text = re.sub(rf"\b{symbol}\b", name, text)
        return text

    def shape(self, tensor: torch.Tensor) -> Shape:
        """A tensor's shape with the graph's names."""
        return tuple(self.dim(size) for size in tensor.shape)

    def placeholder(self, node: torch.fx.Node) -> Var:
        """A batch input, a trained tensor, or a frozen one."""
        if node.name in self.program.inputs:
            return self.tape.leaf(self.batch[self.program.inputs[node.name]])
        name, tensor = self.program.tensors[node.name]
        if name in self.trainables:
            return self.trainables[name]
        key = tensor.data_ptr() if tensor.numel() else id(tensor)
        same = self.leaves.get(key)
        if same is not None and same.value.shape == tuple(tensor.shape):
            return same  # tied weights are one tensor of the base
        if tensor.dtype not in ELEMENT_TYPES:
            raise ModelError(
                f"it is stored as {tensor.dtype}", where=name, hint="load the model as float32"
            )
        builder = self.tape.builder
        if not tensor.is_floating_point() and tensor.nbytes <= INLINE_LIMIT:
            value = builder.constant(tensor.detach().numpy())
        else:
            value = builder.parameter(name, tuple(tensor.shape), ELEMENT_TYPES[tensor.dtype])
        var = self.tape.leaf(value, origin=name)
        self.leaves[key] = var
        return var

    def argument(self, item: Any) -> Any:  # noqa: ANN401
        """An argument with nodes replaced by variables."""
        if isinstance(item, torch.fx.Node):
            return self.vars[item]
        if isinstance(item, (list, tuple)):
            return [self.argument(part) for part in item]
        return item

    def size_arithmetic(self, node: torch.fx.Node) -> Var:
        """Arithmetic on dynamic sizes, as int64 [1]."""
        kind = _INTEGER_ARITHMETIC.get(operator_name(node))
        if kind is None:
            raise ModelError(
                f"a size is computed by {operator_name(node)}",
                where=layer_of(node),
                hint="only sums, differences, products and quotients of sizes are known",
            )
        builder = self.tape.builder
        names = [
            self.vars[item].value.name
            if isinstance(item, torch.fx.Node)
            else builder.constant([int(str(item))]).name
            for item in node.args
        ]
        return self.tape.leaf(builder.op(kind, names, (1,), INT64))

    def call(self, node: torch.fx.Node) -> Var:
        """One call, by its rule."""
        name, found = operator_name(node), node.meta.get("val")
        if isinstance(found, (torch.SymInt, int)) and name not in RULES:
            var = self.size_arithmetic(node)
            self.tape.builder.define_dim(self.dim(found), var.value)
            return var
        users = list(node.users)
        call = Call(
            tape=self.tape,
            shape=self.shape(found) if isinstance(found, torch.Tensor) else (),
            dtype=ELEMENT_TYPES.get(found.dtype, FLOAT)
            if isinstance(found, torch.Tensor)
            else INT64,
            layer=layer_of(node),
            adapters=self.adapters,
            only_user=operator_name(users[0]) if len(users) == 1 else "",
            users=len(users),
        )
        arguments = [self.argument(item) for item in node.args]
        keywords = {key: self.argument(item) for key, item in node.kwargs.items()}
        var = RULES[name](call, *arguments, **keywords)
        if var in arguments:
            var.users += len(users) - 1  # the rule handed its operand on
        else:
            var.users = len(users)
        return var

    def run(self) -> Var:
        """What the captured module returns."""
        for node in self.program.nodes:
            if node.op == "placeholder":
                if node.users:
                    self.vars[node] = self.placeholder(node)
            elif node.op == "call_function" and operator_name(node) not in CHECKS:
                self.vars[node] = self.call(node)
        return self.vars[self.program.output]


def translate(
    program: Program,
    tape: Tape,
    batch: Mapping[str, Value],
    trainables: Mapping[str, Var],
    adapters: Mapping[str, Adapter],
) -> Var:
    """Translate a captured forward pass.

    Args:
        program: The captured model.
        tape: Where to record; its builder receives the nodes.
        batch: The graph inputs of the batch, by name.
        trainables: Variables of trained parameters (the task head) by dotted name; their graph
            inputs may be named otherwise.
        adapters: Adapters by the dotted name of the weight they belong to.

    Returns:
        What the captured module returns.
    """
    return _Translator(program, tape, batch, trainables, adapters).run()


def frozen_name(program: Program, tensor: torch.Tensor, otherwise: str) -> str:
    """What the base calls a tensor of the model: a tied one has the name it is first read by.

    Args:
        program: The captured model.
        tensor: A parameter of the model itself, not a copy.
        otherwise: Its name if the captured pass does not read it.
    """
    for node in program.nodes:
        if node.op == "placeholder" and node.users and node.name in program.tensors:
            name, found = program.tensors[node.name]
            if found.data_ptr() == tensor.data_ptr() and found.shape == tensor.shape:
                return name
    return otherwise
