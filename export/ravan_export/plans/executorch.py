"""The plan ``executorch``: one program with the methods step and eval, and its frozen numbers beside it.

The graphs of plan ``whole`` are built once more with their sizes fixed, turned into torch modules and
lowered: products, elementwise operators and layout to XNNPACK, the rest to ExecuTorch's kernels. What
trains is an input like the batch, so the optimiser stays on the host and nothing is trained in the
runtime.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ravan_edge.artifact.manifest import GraphTensor, Plan
from ravan_edge.errors import MissingExtraError, ModelError
from ravan_export.graph.finish import finish
from ravan_export.plans.context import PlanContext
from ravan_export.plans.torch_module import GraphModule
from ravan_export.plans.whole import Graph, build_graph, graph_tensor
from ravan_export.plans.xnnpack_pieces import piece_partitioner

if TYPE_CHECKING:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import ExecutorchProgramManager
    from torch.export import ExportedProgram

__all__ = ["write_executorch"]

PROGRAM = "plans/executorch/step.pte"
BASE = "plans/executorch/base.ptd"
_ROLES = ("step", "eval")
_TAG = "base"
"""What ExecuTorch calls the file of frozen numbers, without its ending."""
_CIRCLE = "dependency cycles"
"""What ExecuTorch says when its own pieces need each other's results."""
_DTYPES = {"float32": torch.float32, "int64": torch.int64}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and ExecuTorch say about their own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _limits(context: PlanContext) -> dict[str, int]:
    """The size of each dynamic dimension of the batch."""
    names = {
        dim for shape, _ in context.program.batch.values() for dim in shape if isinstance(dim, str)
    }
    names |= set(context.task.label_dims)
    length = context.options.plan_length
    if context.max_length is not None:
        length = min(length, context.max_length)
    return {
        name: context.options.plan_rows if name == "batch" else length for name in sorted(names)
    }


def _graph(context: PlanContext, role: str, sizes: Mapping[str, int]) -> Graph:
    """One role's graph, all of its dimensions fixed."""
    tokens = sizes["batch"] * sizes["length"] if "length" in sizes else context.options.tokens
    return build_graph(
        context.program,
        context.adaptation,
        context.task,
        context.parts,
        tokens,
        step=role == "step",
        sizes=sizes,
    )


def _fixed(tensor: GraphTensor, sizes: Mapping[str, int]) -> GraphTensor:
    shape = tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in tensor.shape)
    return tensor.model_copy(update={"shape": shape})


def _example(tensor: GraphTensor, limits: Mapping[str, int]) -> torch.Tensor:
    shape = [limits[dim] if isinstance(dim, str) else dim for dim in tensor.shape]
    return torch.zeros(shape, dtype=_DTYPES[tensor.dtype])


def _exported(module: GraphModule, inputs: Mapping[str, torch.Tensor]) -> ExportedProgram:
    example = tuple(inputs[name] for name in module.inputs)
    with torch.no_grad():
        program = torch.export.export(module.prepared(example), example, strict=False)
    for node in program.graph.nodes:
        if node.op == "placeholder":  # frozen numbers that XNNPACK takes over
            node.meta.setdefault("custom", {})["delegate_constant_tag"] = _TAG
    return program


def write_executorch(context: PlanContext) -> Plan:
    """Write the plan's files.

    Raises:
        MissingExtraError: ExecuTorch is not installed.
        ModelError: The graph cannot be lowered.
    """
    if find_spec("executorch") is None:
        raise MissingExtraError(
            "plan 'executorch' needs ExecuTorch, which is not installed",
            hint="pip install 'ravan-edge[executorch]'",
        )
    limits = _limits(context)
    heads = {f"{layer.name}.heads": layer.heads for layer in context.adaptation.layers}
    constants: dict[str, Any] = {**context.frozen, **context.adaptation.base_tensors}
    graphs = {role: _graph(context, role, {**limits, **heads}) for role in _ROLES}
    inputs = tuple(
        _fixed(graph_tensor(value.name, value), heads)
        for value in graphs["step"].builder.inputs
        if value.name not in context.adaptation.base_tensors
    )
    examples = {tensor.name: _example(tensor, limits) for tensor in inputs}
    with _quiet():
        modules = {
            role: GraphModule(finish(graph.builder, graph.outputs, context.spans), constants)
            for role, graph in graphs.items()
        }
        operators, planned = _write(_lowered(modules, examples), context.writer.path(PROGRAM))
    return Plan(
        graphs=dict.fromkeys(_ROLES, PROGRAM),
        inputs=inputs,
        outputs={
            role: tuple(
                _fixed(graph_tensor(name, value), heads) for name, value in graph.outputs.items()
            )
            for role, graph in graphs.items()
        },
        blobs=(BASE,),
        operators=operators,
        opset=None,
        limits=limits,
        planned_bytes=planned,
    )


def _lowered(
    modules: Mapping[str, GraphModule], examples: Mapping[str, torch.Tensor]
) -> ExecutorchProgramManager:
    """The program. XNNPACK is given all that it takes, in pieces as large as possible."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    try:
        try:
            return _lowered_by(XnnpackPartitioner(), modules, examples)
        except AssertionError as error:
            if _CIRCLE not in str(error):
                raise
        return _lowered_by(piece_partitioner(), modules, examples)
    except Exception as error:  # ExecuTorch raises many kinds; each means the same to the user
        first = str(error).strip().splitlines()
        raise ModelError(
            f"ExecuTorch cannot lower it: {type(error).__name__}: {first[0] if first else ''}",
            where="--plans",
            hint="leave plan executorch out: the other plans are not concerned",
        ) from error


def _lowered_by(
    partitioner: XnnpackPartitioner,
    modules: Mapping[str, GraphModule],
    examples: Mapping[str, torch.Tensor],
) -> ExecutorchProgramManager:
    """The program with the pieces of one partitioner. Traced anew: lowering writes into what it is given."""
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig
    from executorch.exir import to_edge_transform_and_lower as lower

    edge = lower(
        {role: _exported(module, examples) for role, module in modules.items()},
        partitioner=[partitioner],
        compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
    )
    return edge.to_executorch(ExecutorchBackendConfig(external_constants=lambda _: _TAG))


def _write(program: ExecutorchProgramManager, path: Path) -> tuple[tuple[str, ...], int]:
    """Write the program and its data: its operators, planned bytes of the larger method."""
    with path.open("wb") as file:
        program.write_to_file(file)
    program.write_tensor_data_to_file(str(path.parent))
    plans = program.executorch_program.execution_plan
    operators = {
        f"{item.name}.{item.overload}" if item.overload else item.name
        for plan in plans
        for item in plan.operators
    }
    operators |= {f"delegate:{item.id}" for plan in plans for item in plan.delegates}
    return tuple(sorted(operators)), max(sum(plan.non_const_buffer_sizes) for plan in plans)
