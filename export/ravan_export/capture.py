"""A model in eval mode -> the operators of its forward pass, by ``torch.export``.

Only the forward pass is captured. Its gradient is written by the rules of ``ravan_export.rules``, so
nothing of torch's own backward formulas (which transpose and copy what ``Gemm`` can read in place)
ends up in the graph, and adapters need no change to the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from ravan_edge.errors import ModelError
from ravan_export.graph.value import Shape
from ravan_export.narrow import narrow
from ravan_export.rules import RULES

__all__ = ["Program", "capture", "layer_of", "operator_name"]

# Torch checks of dtypes and sizes: what they check is fixed in the graph anyway.
CHECKS = frozenset(
    {
        "aten._assert_tensor_metadata.default",
        "aten._assert_scalar.default",
        "aten._assert_async.msg",
        "aten.sym_constrain_range_for_size.default",
        "aten.sym_constrain_range.default",
    }
)
_INNER = re.compile(r"^(?:body\.)?model\.")
"""Where wrappers keep the Hugging Face model: names are given relative to it."""
_RANDOM = ("bernoulli", "rand", "normal_", "multinomial", "dropout", "poisson", "exponential_")


@dataclass(frozen=True, slots=True)
class Program:
    """The captured forward pass.

    Args:
        nodes: Its calls in order.
        tensors: Parameters, buffers and constants: placeholder -> (dotted name, relative to the
            Hugging Face model; tensor).
        inputs: Batch inputs: placeholder -> input name.
        batch: Batch inputs: name -> shape with the names of dynamic dimensions, element type.
        dims: torch's symbols of the dynamic dimensions -> their names in the graph.
        output: The node of what is returned.
    """

    nodes: tuple[torch.fx.Node, ...]
    tensors: Mapping[str, tuple[str, Tensor]]
    inputs: Mapping[str, str]
    batch: Mapping[str, tuple[Shape, torch.dtype]]
    dims: Mapping[str, str]
    output: torch.fx.Node


def operator_name(node: torch.fx.Node) -> str:
    """An operator as rules are named after it: ``aten.linear.default``."""
    target = node.target
    return (
        str(target)
        if isinstance(target, torch._ops.OpOverload)
        else getattr(target, "__name__", "")
    )


def layer_of(node: torch.fx.Node) -> str:
    """The dotted name of the innermost module that made a call."""
    stack = node.meta.get("nn_module_stack") or {}
    path = [str(entry[0]) for entry in stack.values()]
    name = path[-1] if path else ""
    return _INNER.sub("", name.removeprefix("L['self'].")) or "the model itself"


def _export(
    model: nn.Module, example: Mapping[str, Tensor], dims: Mapping[str, Mapping[int, str]]
) -> ExportedProgram:
    dynamic = {name: dict.fromkeys(dims.get(name, {}), Dim.DYNAMIC) for name in example}
    try:
        with torch.no_grad():
            return torch.export.export(
                model, (), dict(example), dynamic_shapes=dynamic, strict=False
            )
    except Exception as error:  # torch raises many kinds here; each means the same to the user
        first = str(error).strip().splitlines()
        if "Constraints violated" in str(error):
            raise ModelError(
                f"the model fixes a dimension that must be free: {first[0]}",
                where=type(model).__name__,
                hint="its forward pass must accept any batch and length",
            ) from error
        raise ModelError(
            f"torch.export cannot capture it: {type(error).__name__}: {first[0] if first else ''}",
            where=type(model).__name__,
            hint="models whose forward pass branches on data need a wrapper in their family's file",
        ) from error


def _split(x: Tensor, size: int, dim: int = 0) -> Any:  # noqa: ANN401
    whole = x.shape[dim]
    if not isinstance(whole, int):  # a dynamic dimension
        return NotImplemented
    return tuple(x.narrow(dim, begin, min(size, whole - begin)) for begin in range(0, whole, size))


_TAKEN_APART: Mapping[Any, Any] = {torch.ops.aten.split.Tensor: _split}
"""What torch's own decompositions leave with several results; a rule gives one."""


def _decomposed(program: ExportedProgram) -> ExportedProgram:
    """Operators without a rule, taken apart by torch's own core decompositions where it has one."""
    unknown = {
        node.target
        for node in program.graph.nodes
        if node.op == "call_function"
        and isinstance(node.target, torch._ops.OpOverload)
        and operator_name(node) not in RULES
        and operator_name(node) not in CHECKS
    }
    table = torch.export.default_decompositions()
    known = {operator: table[operator] for operator in unknown if operator in table}
    if unknown:
        # Always: taking apart a chunk leaves a split.
        known |= _TAKEN_APART
    return program.run_decompositions(known) if known else program


def _check(program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        name = operator_name(node) if node.op == "call_function" else ""
        if not name or name in CHECKS or name.startswith("aten.sym_size") or name in RULES:
            continue
        if isinstance(node.meta.get("val"), (torch.SymInt, int)):
            continue  # arithmetic on sizes
        layer = layer_of(node)
        if any(word in name for word in _RANDOM):
            raise ModelError(
                f"the random operator {name} is left in the forward pass",
                where=layer,
                hint="switch it off for evaluation (a training step must be a pure function)",
            )
        raise ModelError(
            f"operator {name} has no rule, so the model cannot be exported exactly",
            where=layer,
            hint="add one to export/ravan_export/rules (docs/export.md says how)",
        )


def capture(
    model: nn.Module, example: Mapping[str, Tensor], dims: Mapping[str, Mapping[int, str]]
) -> Program:
    """Capture ``model(**example)``, which returns one tensor.

    Args:
        model: In eval mode.
        example: Inputs of a small batch.
        dims: Which dimensions are dynamic: input -> axis -> name.

    Raises:
        ModelError: It cannot be captured, a dimension is fixed, or an operator has no rule; names
            the layer.
    """
    exported = _decomposed(_export(model, example, dims))
    _check(exported)
    narrow(exported.graph, CHECKS)
    signature = exported.graph_signature
    tensors: dict[str, tuple[str, Tensor]] = {}
    inputs: dict[str, str] = {}
    user_names = iter(example)
    # Of tied parameters torch names the last; the first is where it is defined.
    first = {tensor.data_ptr(): name for name, tensor in model.named_parameters() if tensor.numel()}
    for spec in signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            inputs[spec.arg.name] = next(user_names)
        else:
            target = str(spec.target)
            stored = exported.state_dict.get(target)
            tensor = exported.constants[target] if stored is None else stored
            tensors[spec.arg.name] = (_INNER.sub("", first.get(tensor.data_ptr(), target)), tensor)
    nodes = tuple(exported.graph.nodes)
    symbols: dict[str, str] = {}
    batch: dict[str, tuple[Shape, torch.dtype]] = {}
    for node in nodes:
        if node.op == "placeholder" and node.name in inputs:
            name = inputs[node.name]
            batch[name] = _signature(example[name], dims.get(name, {}))
            for axis, dim in dims.get(name, {}).items():
                size = node.meta["val"].shape[axis]
                if isinstance(size, int):
                    raise ModelError(
                        f"the model fixes dimension {dim!r} of {name} at {size}",
                        where=type(model).__name__,
                        hint="its forward pass must accept any batch and length",
                    )
                symbols[str(size)] = dim
    last = nodes[-1].args[0]
    output = last[0] if isinstance(last, (tuple, list)) else last
    if not isinstance(output, torch.fx.Node):
        raise ModelError("the forward pass returns no tensor", where=type(model).__name__)
    return Program(nodes, tensors, inputs, batch, symbols, output)


def _signature(example: Tensor, dims: Mapping[int, str]) -> tuple[Shape, torch.dtype]:
    return tuple(dims.get(axis, size) for axis, size in enumerate(example.shape)), example.dtype
