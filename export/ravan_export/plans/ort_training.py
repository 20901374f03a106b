"""The plan ``ort-training``: files for the training runtime of ONNX Runtime 1.19.2.

There H and s (or the LoRA matrices) and the task head are parameters of the runtime, which also
differentiates: the exporter writes the forward graph only, with G = s H in it, and the runtime's own
tools, run in its own environment, make training, evaluation and optimiser models out of it.

Frozen tensors are graph inputs while those tools work, so that nothing is folded into copies or
written into a model, and external data in the base afterwards.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from ravan_edge.artifact.manifest import GraphTensor, Plan
from ravan_edge.artifact.tensor_file import BASE_BOUNDS, read_header
from ravan_edge.errors import ModelError
from ravan_edge.plans.child import child_environment
from ravan_edge.plans.ort_training import BUILD_HINT, find_python
from ravan_export.adapters import LoraAdapter, MergedRavanAdapter, RavanAdapter, merging_pays
from ravan_export.graph import Builder, Tape, Value
from ravan_export.graph.finish import BASE_FILE, IR_VERSION, OPSET, Span, finish
from ravan_export.graph.value import INT64
from ravan_export.plans.context import PlanContext
from ravan_export.plans.whole import Graph, graph_tensor
from ravan_export.rules.registry import Adapter
from ravan_export.translate import ELEMENT_TYPES, translate

__all__ = ["FOLDER", "write_ort_training"]

FOLDER = "plans/ort-training"
_GRAPHS = {"step": f"{FOLDER}/training_model.onnx", "eval": f"{FOLDER}/eval_model.onnx"}
_OPTIMIZER = f"{FOLDER}/optimizer_model.onnx"
_CHECKPOINT = f"{FOLDER}/checkpoint"
_SCRIPT = Path(__file__).with_name("ort_training_generate.py")
_SECONDS = 1800
_Tensors = tuple[GraphTensor, ...]
_DOMAINS = {"": OPSET, "com.microsoft": 1}


@dataclass(frozen=True, slots=True)
class _Forward:
    """The forward graph, its parameters among the builder's inputs.

    Args:
        graph: With the outputs of an evaluation.
        batch: Names of the inputs that are no parameters.
        parameters: Names of those that are.
    """

    graph: Graph
    batch: tuple[str, ...]
    parameters: tuple[str, ...]


def _forward(context: PlanContext) -> _Forward:
    builder = Builder()
    tape = Tape(builder)
    batch = {
        name: builder.input(name, shape, ELEMENT_TYPES[dtype])
        for name, (shape, dtype) in context.program.batch.items()
    }
    labels = builder.input("labels", context.task.label_dims, INT64)
    names = tuple(value.name for value in builder.inputs)
    adapted = _adapters(tape, context)
    head = {
        full: tape.leaf(builder.input(name, shape))
        for name, (full, shape) in context.parts.task_head.items()
    }
    output = translate(context.program, tape, batch, head, adapted)
    parts = context.parts
    frozen = {role: builder.parameter(name, shape) for role, (name, shape) in parts.frozen.items()}
    frozen |= {role: builder.constant(number) for role, number in parts.numbers.items()}
    scores = context.task.scores(builder, output.value, labels, frozen)
    outputs = {name: builder.exact(value) for name, value in scores.items()}
    if context.task.signature.logits_axes is not None:
        outputs["logits"] = builder.exact(output.value)
    parameters = tuple(value.name for value in builder.inputs[len(names) :])
    return _Forward(Graph(builder, outputs), names, parameters)


def _adapters(tape: Tape, context: PlanContext) -> dict[str, Adapter]:
    """Adapters by the weight they belong to; their parameters become inputs."""
    builder, settings = tape.builder, context.adaptation.settings
    adapted: dict[str, Adapter] = {}
    for layer in context.adaptation.layers:
        name, m, n, h, r = layer.name, layer.outputs, layer.inputs, layer.heads, layer.rank
        if settings.name == "ravan":
            core, scale = builder.input(f"{name}.H", (h, r, r)), builder.input(f"{name}.s", (h,))
            kind = (
                MergedRavanAdapter if merging_pays(layer, context.options.tokens) else RavanAdapter
            )
            adapted[f"{name}.weight"] = kind(
                tape.leaf(builder.mul(core, builder.reshape(scale, (h, 1, 1)))),
                builder.parameter(f"{name}.A", (h, r, n)),
                builder.parameter(f"{name}.Bt", (h, r, m)),
            )
        else:
            adapted[f"{name}.weight"] = LoraAdapter(
                tape.leaf(builder.input(f"{name}.lora_A", (r, n))),
                tape.leaf(builder.input(f"{name}.lora_B", (m, r))),
                (settings.alpha or r) / r,
            )
    return adapted


def _spans(context: PlanContext) -> dict[str, Span]:
    """Where every tensor of the base lies, bases included."""
    header = read_header(context.writer.path(BASE_FILE), BASE_BOUNDS)
    return {
        name: Span(header.data_offset + spec.begin, spec.end - spec.begin)
        for name, spec in header.specs.items()
    }


def _copied_inputs(values: Iterable[ValueInfoProto], without: set[str]) -> list[ValueInfoProto]:
    return [
        ValueInfoProto.FromString(value.SerializeToString())
        for value in values
        if value.name not in without
    ]


def _for_the_tools(
    model: ModelProto, context: PlanContext, parameters: Sequence[str]
) -> list[TensorProto]:
    """Change a finished forward graph to what the tools want; returns what lies in the base.

    Parameters become initialisers with their first values, frozen tensors become inputs, and every
    node has a name: fusions derive the names of new nodes from those, and want them different.
    """
    graph = model.graph
    tensors = [TensorProto.FromString(item.SerializeToString()) for item in graph.initializer]
    external = [item for item in tensors if item.data_location == TensorProto.EXTERNAL]
    inputs = _copied_inputs(graph.input, set(parameters))
    inputs += [
        helper.make_tensor_value_info(item.name, item.data_type, list(item.dims))
        for item in external
    ]
    del graph.input[:], graph.initializer[:]
    graph.input.extend(inputs)
    graph.initializer.extend(item for item in tensors if item not in external)
    graph.initializer.extend(
        numpy_helper.from_array(context.initial[name], name) for name in parameters
    )
    for number, node in enumerate(graph.node):
        node.name = f"n{number}"
    return external


def _never_empty(model: ModelProto) -> None:
    """Give each list of losses that is put together and summed a 0 at its end.

    Of a concatenation without any number the runtime forgets how long the parts were, and its gradient
    fails; a batch in which nothing counts is such a case.
    """
    graph = model.graph
    ranks = {item.name: len(item.type.tensor_type.shape.dim) for item in graph.value_info}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    spare = numpy_helper.from_array(np.zeros(1, np.float32), "nothing")
    found = False
    for node in graph.node:
        if (
            node.op_type == "Concat"
            and readers.get(node.output[0]) == {"ReduceSum"}
            and all(ranks.get(name) == 1 for name in node.input)
        ):
            node.input.append(spare.name)
            found = True
    if found:
        graph.initializer.append(spare)


def _generate(model: ModelProto, folder: Path, parameters: Sequence[str]) -> None:
    """Run the runtime's tools on a forward graph, in the runtime's environment.

    Raises:
        MissingExtraError: There is no such environment.
        ModelError: The runtime cannot differentiate the graph.
    """
    python = str(find_python())
    forward = folder / "forward.onnx"
    forward.write_bytes(model.SerializeToString(deterministic=True))
    environment = child_environment(python, threads=1)
    environment["PYTHONHASHSEED"] = "0"  # the tools walk through sets of names
    try:
        finished = subprocess.run(  # noqa: S603  (our own script in an environment that we looked for)
            [python, "-P", str(_SCRIPT), str(forward), str(folder), *parameters],
            capture_output=True,
            check=False,
            cwd=folder,
            encoding="utf-8",
            env=environment,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"onnxruntime-training's tools took more than {_SECONDS} s for it",
            where="--plans",
            hint="try again on a machine that is less busy, or leave plan ort-training out",
        ) from error
    if finished.returncode:
        lines = [line for line in finished.stderr.splitlines() if "Error" in line]
        raise ModelError(
            f"onnxruntime-training makes no training model of it: "
            f"{lines[-1][-500:] if lines else f'exit code {finished.returncode}'}",
            where="plan 'ort-training'",
            hint=f"leave ort-training out of --plans, or mend its environment: {BUILD_HINT}",
        )


def _finished(path: Path, external: Sequence[TensorProto], *, without: str = "") -> ModelProto:
    """A generated model as it is stored: frozen tensors in the base, an IR version that it reads."""
    model = onnx.load(path)
    graph = model.graph
    used = {tensor for node in graph.node for tensor in node.input}
    inputs = _copied_inputs(graph.input, {item.name for item in external})
    outputs = _copied_inputs(graph.output, {without})
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.extend(inputs)
    graph.output.extend(outputs)
    graph.initializer.extend(item for item in external if item.name in used)
    # It writes models of the newest IR version that onnx knows, but reads none above 10.
    model.ir_version = IR_VERSION
    domains = {"" if node.domain == "ai.onnx" else node.domain for node in graph.node}
    del model.opset_import[:]
    model.opset_import.extend(
        helper.make_opsetid(domain, _DOMAINS[domain]) for domain in sorted({"", *domains})
    )
    for text in ("producer_name", "producer_version", "doc_string", "metadata_props"):
        model.ClearField(text)
    for part in (graph, *graph.node, *graph.input, *graph.output):
        part.ClearField("doc_string")
    return model


def _torch_adam(optimizer: ModelProto) -> ModelProto:
    """The optimiser as torch and our host compute it, no weight decay.

    Its own default is the order of an old transformers version, with epsilon beside uncorrected
    moments: in the first steps that is 30 times torch's.
    """
    settings: dict[str, int | float] = {"adam_mode": 0, "epsilon": 1e-8, "weight_decay": 0.0}
    for node in optimizer.graph.node:
        kept = [item for item in node.attribute if item.name not in settings]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.extend(helper.make_attribute(*item) for item in settings.items())
    return optimizer


def _interface(forward: _Forward, context: PlanContext) -> tuple[_Tensors, dict[str, _Tensors]]:
    """Inputs and outputs of the step, where a layer has one input G and not H and s."""
    values = {value.name: value for value in forward.graph.builder.inputs}
    cores = {f"{layer.name}.H": f"{layer.name}.G" for layer in context.adaptation.layers}
    scales = {f"{layer.name}.s" for layer in context.adaptation.layers}
    trained: dict[str, Value] = {
        cores.get(name, name): values[name] for name in forward.parameters if name not in scales
    }
    outputs = [graph_tensor(name, value) for name, value in forward.graph.outputs.items()]
    step = [tensor for tensor in outputs if tensor.name != "logits"]
    step += [graph_tensor(f"grad.{name}", value) for name, value in trained.items()]
    inputs = [graph_tensor(name, values[name]) for name in forward.batch]
    inputs += [graph_tensor(name, value) for name, value in trained.items()]
    return tuple(inputs), {"step": tuple(step), "eval": tuple(outputs)}


def _operators(models: Iterable[ModelProto]) -> tuple[str, ...]:
    nodes = [node for model in models for node in model.graph.node]
    return tuple(sorted({f"{node.domain or 'ai.onnx'}:{node.op_type}" for node in nodes}))


def write_ort_training(context: PlanContext) -> Plan:
    """Write the plan's files; the plan as the manifest lists it.

    Raises:
        MissingExtraError: The environment of onnxruntime-training is not there.
        ModelError: It cannot differentiate this model.
    """
    forward = _forward(context)
    model = finish(forward.graph.builder, forward.graph.outputs, _spans(context))
    external = _for_the_tools(model, context, forward.parameters)
    # Its gradients of broadcasts go by the shapes that it finds written down; where it finds none it
    # takes two dimensions for equal. It does not follow sizes through Concat and Reshape itself.
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    _never_empty(model)
    inputs, outputs = _interface(forward, context)
    with tempfile.TemporaryDirectory(prefix="ravan-ort-training-") as name:
        folder = Path(name)
        _generate(model, folder, forward.parameters)
        models: Mapping[str, ModelProto] = {
            # Nobody reads a training step's logits.
            _GRAPHS["step"]: _finished(folder / "training_model.onnx", external, without="logits"),
            _GRAPHS["eval"]: _finished(folder / "eval_model.onnx", external),
            _OPTIMIZER: _torch_adam(_finished(folder / "optimizer_model.onnx", ())),
        }
        for path, made in models.items():
            context.writer.add_bytes(path, made.SerializeToString(deterministic=True))
        context.writer.add_bytes(_CHECKPOINT, (folder / "checkpoint").read_bytes())
    return Plan(
        graphs=dict(_GRAPHS),
        inputs=inputs,
        outputs=outputs,
        blobs=(BASE_FILE, _CHECKPOINT, _OPTIMIZER),
        operators=_operators(models.values()),
        opset=OPSET,
    )
