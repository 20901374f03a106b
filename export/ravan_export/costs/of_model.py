"""``estimate``: a model's configuration in, what its artifact costs out; no weights are needed.

Everything is built as ``ravan export`` builds it, from a model whose parameters have shapes but no
numbers: the graph, the layout of the base, the tensor table.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from ravan_edge.artifact.manifest import Layer, ModelInfo, TensorEntry
from ravan_edge.artifact.signature import SIGNATURES
from ravan_edge.artifact.summary import heads_bytes, update_bytes
from ravan_edge.artifact.tensor_header import TensorHeader, planned_header
from ravan_edge.tasks import text_length
from ravan_export.adaptation import Adaptation, adapt
from ravan_export.costs.liveness import live_peak
from ravan_export.costs.sizes import tensor_sizes
from ravan_export.graph.finish import Span, finish
from ravan_export.graph.value import FLOAT, INT64
from ravan_export.plans import WholePlan, build_whole
from ravan_export.prepare import captured, chosen_task, label_names, task_parts, tensor_table
from ravan_export.settings import DEFAULT_TASK, ExportSettings, StepSize
from ravan_export.source import open_outline, resolve

__all__ = ["Estimate", "estimate"]

# What plan `whole` on onnxruntime takes beside live tensors, measured by `python -m bench.costs`
# (docs/export.md has the table): the library and its threads, a session's memory by nodes, and the
# gaps its arena leaves between tensors.
_RUNTIME_BYTES = 3_000_000
_NODE_BYTES = 4_300
_ARENA = 1.12

_PLAIN = ExportSettings()
_FEWEST_LABELS = 2
_DTYPES = {FLOAT: "F32", INT64: "I64"}


@dataclass(frozen=True)
class Estimate:
    """What ``ravan inspect`` shows of a model that is not exported. Sizes are in bytes.

    Attributes:
        model: Name, architecture, family, numbers, and bytes as the checkpoint stores them.
        task: What it would learn.
        labels: How many; 0 for a task without a label map.
        method: Name of the method.
        layers: The adapted layers.
        tensors: The tensor table.
        trainable: How many numbers train.
        base_bytes: The base file, fetched once.
        bases_bytes: Of these, the frozen random bases.
        heads_bytes: The heads of one version, fetched each round.
        upload_bytes: One update with all heads: an upper bound, as `ravan inspect` gives it.
        graph_bytes: The step graph, fetched once.
        nodes: Of the step graph.
        batch: Rows of the step that is looked at, and ``length``, tokens of a row (0: images).
        live_bytes: The most bytes of tensors alive at once in that step.
        live_operator: What runs then.
        memory_bytes: About what the step adds to an idle process: live tensors and what the runtime
            takes beside them.
        notices: What a person should know.
    """

    model: ModelInfo
    task: str
    labels: int
    method: str
    layers: tuple[Layer, ...]
    tensors: tuple[TensorEntry, ...]
    trainable: int
    base_bytes: int
    bases_bytes: int
    heads_bytes: int
    upload_bytes: int
    graph_bytes: int
    nodes: int
    batch: int
    length: int
    live_bytes: int
    live_operator: str
    memory_bytes: int
    notices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Table:
    """What decides the size of heads and updates."""

    tensors: tuple[TensorEntry, ...]
    layers: tuple[Layer, ...]


def estimate(
    model: str | os.PathLike[str],
    task: str = DEFAULT_TASK,
    labels: int | str | os.PathLike[str] | Sequence[str] | None = None,
    *,
    options: ExportSettings = _PLAIN,
    batch: int = StepSize.batch,
    length: int | None = StepSize.length,
) -> Estimate:
    """What a model costs before it is exported.

    Args:
        model: A folder with config.json (weights are not looked at), that file itself, or a hub id, of
            which all but the weights is fetched.
        task: As for an export.
        labels: As for an export; None: as many as the configuration says.
        options: Of the export.
        batch: Rows of the step to look at.
        length: Tokens of a row; images have their own. None: the usual length, or what the model takes
            where that is less.

    Raises:
        ModelError: The model cannot be exported exactly.
        UsageError: An option makes no sense.
        DataError: The labels file is refused.
    """
    folder, name = _found(model)
    signature = SIGNATURES.get(task)
    if labels is None and signature is not None and signature.label_map:
        doing = chosen_task(task, _FEWEST_LABELS, options)
        checkpoint = open_outline(folder, name, doing.name)
        labels = max(_FEWEST_LABELS, int(checkpoint.config.num_labels or 0))
    else:
        doing = chosen_task(task, labels, options)
        checkpoint = open_outline(folder, name, doing.name)
    names = () if labels is None else label_names(labels, doing)
    source = doing.load(checkpoint, names)
    length = text_length(source.text, length, where="--length")
    adaptation = adapt(source.model, source.family, source.task_modules, options, drawn=False)
    program = captured(source, doing)
    plan = build_whole(program, adaptation, doing, task_parts(source, program), options.tokens)
    base = _base(plan, adaptation)
    step = _step(plan, base)
    table = _Table(tensor_table(adaptation, source), adaptation.layers)
    peak = live_peak(step, tensor_sizes(step, _dims(adaptation, batch, length)))
    nodes = len(step.graph.node)
    return Estimate(
        model=source.info,
        task=doing.name,
        labels=len(names),
        method=adaptation.settings.name,
        layers=adaptation.layers,
        tensors=table.tensors,
        trainable=sum(entry.size for entry in table.tensors),
        base_bytes=base.file_bytes,
        bases_bytes=sum(array.nbytes for array in adaptation.base_tensors.values()),
        heads_bytes=heads_bytes(table),
        upload_bytes=update_bytes(table),
        graph_bytes=step.ByteSize(),
        nodes=nodes,
        batch=batch,
        length=0 if source.text is None else length,
        live_bytes=peak.bytes,
        live_operator=peak.operator,
        memory_bytes=round(_RUNTIME_BYTES + nodes * _NODE_BYTES + _ARENA * peak.bytes),
        notices=source.notices,
    )


def _found(model: str | os.PathLike[str]) -> tuple[Path, str]:
    """The folder and the name of a model, its weights left where they are."""
    path = Path(model)
    if path.name == "config.json" and path.is_file():
        return path.parent, path.resolve().parent.name
    return resolve(os.fspath(model), weights=False)


def _base(plan: WholePlan, adaptation: Adaptation) -> TensorHeader:
    """The base file's header."""
    known = {
        name: frozen
        for graph in plan.graphs.values()
        for name, frozen in graph.builder.frozen.items()
    }
    tensors = {name: (_DTYPES[known[name].dtype], known[name].shape) for name in plan.frozen}
    bases = {name: ("F32", array.shape) for name, array in adaptation.base_tensors.items()}
    return planned_header({**tensors, **bases}, {})


def _step(plan: WholePlan, base: TensorHeader) -> ModelProto:
    """The step graph as an export writes it."""
    graph = plan.graphs["step"]
    spans = {
        name: Span(base.data_offset + spec.begin, spec.end - spec.begin)
        for name, spec in base.specs.items()
        if name in set(plan.frozen)
    }
    return finish(graph.builder, graph.outputs, spans)


def _dims(adaptation: Adaptation, batch: int, length: int) -> dict[str, int]:
    """The sizes of the graph's dynamic dimensions: all heads run, and targets are as long as sources."""
    heads = {f"{layer.name}.heads": layer.heads for layer in adaptation.layers}
    return {"batch": batch, "length": length, "target_length": length, **heads}
