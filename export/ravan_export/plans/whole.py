"""The plan ``whole``: one graph computes the loss and all gradients, another the evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto

from ravan_edge.artifact.manifest import GraphTensor, Plan
from ravan_export.adaptation import Adaptation
from ravan_export.adapters import (
    LoraAdapter,
    MergedRavanAdapter,
    RavanAdapter,
    merging_pays,
    whole_gradient_pays,
)
from ravan_export.capture import Program
from ravan_export.graph import Builder, Tape, Value, Var
from ravan_export.graph.finish import BASE_FILE, OPSET, finish, frozen_names
from ravan_export.graph.value import FLOAT, INT64
from ravan_export.plans.context import Parts, PlanContext
from ravan_export.rules.registry import Adapter
from ravan_export.tasks import Task
from ravan_export.translate import ELEMENT_TYPES, translate

__all__ = ["GRAPHS", "Graph", "WholePlan", "adapters", "build_graph", "build_whole", "graph_tensor"]

GRAPHS = {"step": "plans/whole/step.onnx", "eval": "plans/whole/eval.onnx"}
_TYPES = {FLOAT: "float32", INT64: "int64"}


@dataclass(frozen=True, slots=True)
class Graph:
    """One graph under construction, with what it returns."""

    builder: Builder
    outputs: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class WholePlan:
    """Both graphs, up to the places of frozen tensors in the base.

    Args:
        graphs: ``step`` and ``eval``.
        frozen: Names of the frozen tensors that they read.
    """

    graphs: Mapping[str, Graph]
    frozen: tuple[str, ...]

    def write(self, context: PlanContext) -> Plan:
        """Write the graph files (to be called once); the plan as the manifest lists it."""
        models = {
            role: finish(graph.builder, graph.outputs, context.spans)
            for role, graph in self.graphs.items()
        }
        for role, model in models.items():
            context.writer.add_bytes(GRAPHS[role], model.SerializeToString(deterministic=True))
        return self._describe(models)

    def _describe(self, models: Mapping[str, ModelProto]) -> Plan:
        operators = {
            f"ai.onnx:{node.op_type}" for model in models.values() for node in model.graph.node
        }
        return Plan(
            graphs=dict(GRAPHS),
            inputs=tuple(
                graph_tensor(value.name, value) for value in self.graphs["step"].builder.inputs
            ),
            outputs={
                role: tuple(graph_tensor(name, value) for name, value in graph.outputs.items())
                for role, graph in self.graphs.items()
            },
            blobs=(BASE_FILE,),
            operators=tuple(sorted(operators)),
            opset=OPSET,
        )


def graph_tensor(name: str, value: Value) -> GraphTensor:
    """An input or output as the manifest lists it."""
    return GraphTensor.model_validate(
        {"name": name, "dtype": _TYPES[value.dtype], "shape": list(value.shape)}
    )


def adapters(
    tape: Tape, adaptation: Adaptation, tokens: int, *, trains: bool
) -> tuple[dict[str, Adapter], dict[str, Var]]:
    """Adapters by the weight they belong to, and the graph inputs that train."""
    builder = tape.builder
    adapted: dict[str, Adapter] = {}
    trained: dict[str, Var] = {}

    def train(name: str, shape: tuple[int | str, ...]) -> Var:
        trained[name] = tape.leaf(builder.input(name, shape), trains=trains)
        return trained[name]

    settings = adaptation.settings
    for layer in adaptation.layers:
        name, m, n, r = layer.name, layer.outputs, layer.inputs, layer.rank
        if settings.name == "ravan":
            heads = f"{name}.heads"
            core = train(f"{name}.G", (heads, r, r))
            a = builder.input(f"{name}.A", (heads, r, n))
            bt = builder.input(f"{name}.Bt", (heads, r, m))
            adapted[f"{name}.weight"] = (
                MergedRavanAdapter(core, a, bt, whole_gradient_pays(layer, tokens))
                if merging_pays(layer, tokens)
                else RavanAdapter(core, a, bt)
            )
        else:
            scale = (settings.alpha or r) / r
            adapted[f"{name}.weight"] = LoraAdapter(
                train(f"{name}.lora_A", (r, n)), train(f"{name}.lora_B", (m, r)), scale
            )
    return adapted, trained


def build_graph(
    program: Program,
    adaptation: Adaptation,
    task: Task,
    parts: Parts,
    tokens: int,
    *,
    step: bool,
    sizes: Mapping[str, int] | None = None,
) -> Graph:
    """The training step, or the evaluation.

    Args:
        program: The model's forward pass.
        adaptation: What trains.
        task: How the loss is formed.
        parts: Tensors that the task adds.
        tokens: How many a step usually has: decides the cheaper order of an adapter's products.
        step: Whether gradients are wanted.
        sizes: Of dynamic dimensions, where the runtime fixes them.
    """
    builder = Builder(sizes=sizes or {})
    tape = Tape(builder)
    batch = {
        name: builder.input(name, shape, ELEMENT_TYPES[dtype])
        for name, (shape, dtype) in program.batch.items()
    }
    labels = builder.input("labels", task.label_dims, INT64)
    adapted, trained = adapters(tape, adaptation, tokens, trains=step)
    parameters: dict[str, Var] = {}
    for name, (full, shape) in parts.task_head.items():
        trained[name] = parameters[full] = tape.leaf(builder.input(name, shape), trains=step)
    output = translate(program, tape, batch, parameters, adapted)
    frozen = {role: builder.parameter(name, shape) for role, (name, shape) in parts.frozen.items()}
    frozen |= {role: builder.constant(number) for role, number in parts.numbers.items()}
    if not step:
        scores = task.scores(builder, output.value, labels, frozen)
        outputs = {name: builder.exact(value) for name, value in scores.items()}
        if task.signature.logits_axes is not None:
            outputs["logits"] = builder.exact(output.value)
        return Graph(builder, outputs)
    loss = task.loss(builder, output.value, labels, frozen)
    outputs = {name: builder.exact(value) for name, value in loss.outputs.items()}
    gradients = tape.backward(output, loss.gradient)
    for name, var in trained.items():
        outputs[f"grad.{name}"] = builder.exact(builder.reshape(gradients[var], var.value.shape))
    return Graph(builder, outputs)


def build_whole(
    program: Program,
    adaptation: Adaptation,
    task: Task,
    parts: Parts,
    tokens: int,
) -> WholePlan:
    """Build both graphs of a captured model.

    Args:
        program: Its forward pass.
        adaptation: What trains.
        task: How the loss is formed.
        parts: Tensors that the task adds.
        tokens: How many a step usually has: decides the cheaper order of an adapter's products.
    """
    graphs = {
        role: build_graph(program, adaptation, task, parts, tokens, step=role == "step")
        for role in GRAPHS
    }
    names = [
        name for graph in graphs.values() for name in frozen_names(graph.builder, graph.outputs)
    ]
    return WholePlan(graphs, tuple(dict.fromkeys(names)))
