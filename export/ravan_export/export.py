"""``export_artifact``: a pretrained model in, a checked artifact out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ravan_edge.artifact.heads import heads_metadata
from ravan_edge.artifact.manifest import (
    Conformance,
    ConformanceCase,
    FileEntry,
    Manifest,
)
from ravan_edge.artifact.tensor_file import BASE_BOUNDS, read_header
from ravan_edge.artifact.writer import ArtifactWriter
from ravan_edge.errors import ModelError
from ravan_export.adaptation import adapt
from ravan_export.bases import Init
from ravan_export.capture import Program
from ravan_export.graph.finish import BASE_FILE, Span
from ravan_export.plans import FURTHER_PLANS, Parts, PlanContext, build_whole, check_plans
from ravan_export.prepare import (
    captured,
    chosen_task,
    label_names,
    loss_tensors,
    task_parts,
    tensor_table,
)
from ravan_export.settings import DEFAULT_TASK, ExportSettings, MethodName, Trust
from ravan_export.source import Source, open_checkpoint, resolve
from ravan_export.tokenizer import TOKENIZER_FILE, tokenizer_bytes
from ravan_export.verify import (
    CONFORMANCE_FILE,
    TOLERANCE,
    Case,
    Checked,
    check,
    exact_cases,
    judge,
    make_cases,
)

__all__ = ["Exported", "export_artifact"]

HEADS_FILE = "heads.safetensors"
_LIBRARIES = ("ravan-edge", "torch", "transformers", "optimum", "onnx", "onnxruntime", "numpy")

Progress = Callable[[str], None]
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Exported:
    """An artifact that was written and checked."""

    folder: Path
    manifest: Manifest
    digest: str


def _quiet(message: str) -> None:
    del message


def _task_head(source: Source, given: Mapping[str, Array] | None) -> dict[str, Array]:
    """Initial values of the task head: given ones, or those of the source."""
    initial = {name: array for name, (_, array) in source.task_head.items()}
    for name, array in (given or {}).items():
        if name not in initial or initial[name].shape != array.shape:
            raise ModelError(
                f"a task head of shape {list(array.shape)} was given, which the model does not have",
                where=name,
            )
        initial[name] = array
    return initial


def _frozen(
    source: Source, program: Program, parts: Parts, names: Sequence[str]
) -> dict[str, Array]:
    """The frozen tensors by name, as views of the model's own memory."""
    tensors = dict(program.tensors.values())
    tensors |= {parts.frozen[role][0]: tensor for role, tensor in loss_tensors(source).items()}
    return {name: tensors[name].detach().numpy() for name in names}


def _spans(writer: ArtifactWriter, frozen: Mapping[str, Array]) -> dict[str, Span]:
    header = read_header(writer.path(BASE_FILE), BASE_BOUNDS)
    return {
        name: Span(header.data_offset + spec.begin, spec.end - spec.begin)
        for name, spec in header.specs.items()
        if name in frozen
    }


def _provisional(cases: Sequence[Case]) -> Conformance:
    """What the manifest says until the fresh process has run."""
    rows = tuple(
        ConformanceCase(
            name=case.name,
            batch=case.shape,
            loss=case.reference.loss_sum,
            loss_move=case.loss_move,
            worst_error=0.0,
            worst_tensor="loss_sum",
        )
        for case in cases
    )
    return Conformance(file=CONFORMANCE_FILE, tolerance=TOLERANCE, cases=rows)


def export_artifact(
    model: str | os.PathLike[str],
    task: str = DEFAULT_TASK,
    labels: int | str | os.PathLike[str] | Sequence[str] | None = None,
    out: str | os.PathLike[str] = "artifact",
    *,
    method: MethodName = ExportSettings.method,
    heads: int = ExportSettings.heads,
    rank: int | None = ExportSettings.rank,
    lora_budget: int = ExportSettings.lora_budget,
    init: Init | str = ExportSettings.init,
    targets: str | None = ExportSettings.targets,
    seed: int = ExportSettings.seed,
    tokens: int = ExportSettings.tokens,
    loss_slices: int = ExportSettings.loss_slices,
    plan_rows: int = ExportSettings.plan_rows,
    plan_length: int = ExportSettings.plan_length,
    plans: Sequence[str] = ("whole",),
    name: str | None = None,
    task_head: Mapping[str, Array] | None = None,
    threads: int = 2,
    overwrite: bool = False,
    allow_pickle: bool = Trust.allow_pickle,
    trust_remote_code: bool = Trust.trust_remote_code,
    progress: Progress = _quiet,
    announce: Progress = _quiet,
) -> Exported:
    """Export a pretrained model as a training artifact.

    The artifact is built beside ``out``, run in a fresh process without torch, compared with torch
    autograd on the original model, and only then given its name: a half-written or wrong one is
    never seen.

    Args:
        model: A local Hugging Face folder, or a hub id.
        task: One of ``ravan_export.tasks.TASKS``.
        labels: How many, a file with them (docs/data.md), or the names; None for a task without
            labels.
        out: The artifact's folder; its parent must exist.
        method: ``ravan``, ``head-only`` or ``fedit``.
        heads: h, heads of each adapted layer.
        rank: r; None: from ``lora_budget``.
        lora_budget: The LoRA rank whose number of trained values a layer may have.
        init: ``random-normal``, ``gram-schmidt``, ``constant`` or ``shared-subspace``.
        targets: Linear layers to adapt, by name or last part of it, separated by commas; None: the
            family's query and value.
        seed: Of bases and initial heads.
        tokens: How many a step usually has, padding included. Any number works; the graph is laid
            out so that this one is fastest.
        loss_slices: In how many parts a loss over a vocabulary is computed, one after the other.
        plan_rows: Rows of a step in plans whose sizes are fixed.
        plan_length: Tokens of a row in such plans.
        plans: ``whole``, and others of ``ravan_export.plans.FURTHER_PLANS``.
        name: What the manifest calls the model; None: the hub id or the folder's name.
        task_head: Initial values of ``task_head.*``; None: the checkpoint's, or 0.
        threads: Of the check.
        overwrite: Replace an artifact at ``out``.
        allow_pickle: Read pickled weights where there are no safetensors; only tensors are taken.
        trust_remote_code: Run Python code that came with the model.
        progress: Told what is going on.
        announce: Told which code is going to be run.

    Raises:
        ModelError: The model cannot be exported exactly; names the layer and a way out.
        UsageError: An option makes no sense, or something is at ``out`` already.
        DataError: The labels file is refused.
        StorageError: The disk is full, or the like.
    """
    options = ExportSettings(
        method=method,
        heads=heads,
        rank=rank,
        lora_budget=lora_budget,
        init=init,  # type: ignore[arg-type]  # a plain string is checked there
        targets=targets,
        seed=seed,
        tokens=tokens,
        loss_slices=loss_slices,
        plan_rows=plan_rows,
        plan_length=plan_length,
    )
    doing = chosen_task(task, labels, options)
    further = check_plans(plans)
    names = () if labels is None else label_names(labels, doing)
    with ArtifactWriter(Path(out), overwrite=overwrite) as writer:
        progress("loading the model")
        trust = Trust(allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
        folder, found_name = resolve(os.fspath(model), trust)
        checkpoint = open_checkpoint(
            folder, name or found_name, doing.name, trust, announce=announce
        )
        source = doing.load(checkpoint, names)
        adaptation = adapt(source.model, source.family, source.task_modules, options)
        progress("capturing the forward pass")
        program = captured(source, doing)
        parts = task_parts(source, program)
        whole = build_whole(program, adaptation, doing, parts, tokens)
        progress("writing the base")
        frozen = _frozen(source, program, parts, whole.frozen)
        writer.add_tensors(BASE_FILE, {**frozen, **adaptation.base_tensors})
        table = tensor_table(adaptation, source)
        initial = {**adaptation.heads, **_task_head(source, task_head)}
        writer.add_tensors(HEADS_FILE, initial, heads_metadata(0, None))
        if source.text is not None:
            writer.add_bytes(TOKENIZER_FILE, tokenizer_bytes(source.checkpoint.folder))
        context = PlanContext(
            program=program,
            adaptation=adaptation,
            task=doing,
            parts=parts,
            options=options,
            table=table,
            initial=initial,
            frozen=frozen,
            spans=_spans(writer, frozen),
            max_length=None if source.text is None else source.text.max_length,
            writer=writer,
        )
        described = {"whole": whole.write(context)}
        for plan in further:
            progress(f"writing plan {plan}")
            described[plan] = FURTHER_PLANS[plan](context)
        progress("computing the reference with torch autograd on the original model")
        cases = make_cases(doing, source, adaptation, table, initial)
        writer.add_tensors(CONFORMANCE_FILE, _stored(cases))

        def manifest(conformance: Conformance) -> Callable[[Mapping[str, FileEntry]], Manifest]:
            def make(files: Mapping[str, FileEntry]) -> Manifest:
                return Manifest(
                    schema_version=1,
                    model=source.info,
                    task=doing.name,
                    labels=source.labels,
                    method=adaptation.settings,
                    layers=adaptation.layers,
                    tensors=table,
                    bases=adaptation.bases,
                    text=source.text,
                    image=source.image,
                    plans=described,
                    files=dict(files),
                    conformance=conformance,
                    exporter={library: version(library) for library in _LIBRARIES},
                    notices=(*checkpoint.notices, *source.notices, *adaptation.notices),
                )

            return make

        progress("running the artifact in a fresh process without torch")
        writer.write_manifest(manifest(_provisional(cases)))
        found, limit = _checked(writer.folder, threads, described, progress), TOLERANCE
        if max(item.worst for item in found.values()) > TOLERANCE:
            progress("comparing with torch in float64, since float32 is too coarse for this model")
            cases, limit = exact_cases(doing, source, adaptation, cases)
            writer.add_tensors(CONFORMANCE_FILE, _stored(cases))
            writer.write_manifest(manifest(_provisional(cases)))
            found = _checked(writer.folder, threads, described, progress)
        judged = judge(found["whole"], cases, limit)
        for plan in further:
            judge(found[plan], cases, limit, plan)
            described[plan] = described[plan].model_copy(update={"worst_error": found[plan].worst})
        final = writer.write_manifest(manifest(judged))
        folder = writer.publish()
    return Exported(folder, final, hashlib.sha256(final.to_bytes()).hexdigest())


def _checked(
    folder: Path, threads: int, plans: Iterable[str], progress: Progress
) -> dict[str, Checked]:
    """What each plan computes of the stored cases, in fresh processes."""
    found = {}
    for plan in plans:
        if plan != "whole":
            progress(f"running plan {plan}")
        found[plan] = check(folder, threads, plan)
    return found


def _stored(cases: Sequence[Case]) -> dict[str, Array]:
    return {name: array for case in cases for name, array in case.tensors().items()}
