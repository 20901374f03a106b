"""``--to onnx``: an inference graph that stock onnxruntime runs without the artifact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from ravan_edge.artifact.opening import BASE_NAME, Artifact
from ravan_edge.errors import ArtifactError
from ravan_edge.files import storage_errors
from ravan_edge.methods import method_for
from ravan_export.merge.check import Array, Expected, Gap, expectations, gap_of
from ravan_export.merge.fold import factors, fold
from ravan_export.merge.folder import MergedFolder, writing
from ravan_export.merge.graph import fold_graph
from ravan_export.merge.quantise import quantise_int8
from ravan_export.merge.texts import random_batches
from ravan_export.merge.work import Heads, Work

__all__ = ["merge_onnx"]

MODEL = "model.onnx"
WEIGHTS = "model.onnx.data"

_ONE_FILE_BYTES = (1 << 31) - (1 << 20)
"""A protobuf message ends at 2 GiB; some room for what is not weights."""
_EXTERNAL_FROM = 1024
_ALIGNMENT = 4096  # onnxruntime maps external data that starts at a page


def merge_onnx(work: Work, quantise: str | None, batches: list[dict[str, Array]] | None) -> None:
    """Write the inference graph and what it needs; see :func:`ravan_export.merge.merge_artifact`.

    Raises:
        ArtifactError: The task has no logits, or the graph cannot be folded.
        NumericsError: A merged weight is too large.
        MissingExtraError: ``quantise`` needs a package that is not installed.
        StorageError: The disk is full, or the like.
    """
    work.progress("folding the heads into the evaluation graph")
    model = _inference_model(work.artifact, work.heads)
    _write_companions(work.artifact, work.folder)
    _write_model(model, work.folder)
    path = work.folder.path / MODEL
    work.progress("comparing it with the artifact")
    work.compared(_check(path, work.expected))
    if quantise is not None:
        work.progress("quantising to int8")
        work.details |= {"quantised": quantise, "float_bytes": path.stat().st_size}
        with writing(work.folder.destination / MODEL):
            quantise_int8(model, path)
        if not batches:
            batches = random_batches(work.artifact)
            if batches:
                work.notices.append(
                    "compared on random tokens, where labels lie close together: --data FILE compares on "
                    "texts of yours"
                )
    if batches:
        heads = method_for(work.artifact.manifest).layout.pack(work.heads)
        expected = expectations(work.artifact, heads, batches)
        work.compared(_check(path, expected), exact=quantise is None)
    elif quantise is not None:
        work.compared(_check(path, work.expected), exact=False)


def _inference_model(artifact: Artifact, heads: Heads) -> ModelProto:
    """The folded graph: batch inputs -> ``logits``.

    Raises:
        ArtifactError: The task has no logits, or the graph cannot be folded.
        NumericsError: A merged weight is too large.
    """
    manifest = artifact.manifest
    path = artifact.graph_path("whole", "eval")
    with storage_errors(path, "read the graph"):
        model = onnx.load(path, load_external_data=False)
    weights = {
        f"{layer.name}.weight": fold(
            artifact.base[f"{layer.name}.weight"], factors(artifact, heads, layer)
        ).astype(np.float32)
        for layer in manifest.layers
    }
    values = {name: array for name, array in heads.items() if name.startswith("task_head.")}
    return fold_graph(model, weights, values, manifest.batch_inputs, _frozen(artifact, model))


def _frozen(artifact: Artifact, model: ModelProto) -> dict[str, memoryview]:
    """Bytes of the graph's external initializers; opening the artifact has checked the ranges."""
    path = artifact.base_folder / BASE_NAME
    with storage_errors(path, "map the file"):
        content: NDArray[np.uint8] = np.memmap(path, np.uint8, "r")
    found = {}
    for item in model.graph.initializer:
        if item.data_location == TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in item.external_data}
            begin = int(place["offset"])
            found[item.name] = content[begin : begin + int(place["length"])].data
    return found


def _write_model(model: ModelProto, folder: MergedFolder) -> None:
    """Write the model: one file, or weights beside it where they do not fit into one.

    Raises:
        ArtifactError: onnx's checker refuses the graph.
        StorageError: The disk is full, or the like.
    """
    if model.ByteSize() > _ONE_FILE_BYTES:
        _move_out(model, folder)
    content = model.SerializeToString(deterministic=True)
    folder.add_bytes(MODEL, content)
    try:
        onnx.checker.check_model(str(folder.path / MODEL), full_check=True)
    except Exception as error:  # the checker's errors share no base but Exception
        raise ArtifactError(f"the folded graph is not valid: {error}", where=MODEL) from error


def _move_out(model: ModelProto, folder: MergedFolder) -> None:
    with writing(folder.destination / WEIGHTS), (folder.path / WEIGHTS).open("wb") as file:
        for item in model.graph.initializer:
            if len(item.raw_data) < _EXTERNAL_FROM:
                continue
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            place = (("location", WEIGHTS), ("offset", file.tell()), ("length", len(item.raw_data)))
            file.write(item.raw_data)
            item.ClearField("raw_data")
            item.data_location = TensorProto.EXTERNAL
            for key, value in place:
                entry = item.external_data.add()
                entry.key, entry.value = key, str(value)


def _write_companions(artifact: Artifact, folder: MergedFolder) -> None:
    """Write what a program needs beside the graph: tokenizer, label map, how inputs are made."""
    manifest = artifact.manifest
    folder.add_json("labels.json", list(manifest.labels))
    settings: dict[str, object] = {"task": manifest.task, "inputs": list(manifest.batch_inputs)}
    if manifest.text is not None:
        settings |= {"max_length": manifest.text.max_length, "pad_id": manifest.text.pad_id}
    if manifest.image is not None:
        settings["image"] = manifest.image.model_dump(mode="json", exclude={"inputs"})
    folder.add_json("settings.json", settings)
    tokenizer = artifact.tokenizer_path
    if tokenizer is not None:
        with storage_errors(tokenizer, "read the file"):
            content = tokenizer.read_bytes()
        folder.add_bytes("tokenizer.json", content)


def _check(path: Path, expected: list[Expected]) -> Gap:
    """Run a model file in stock onnxruntime on the same batches as the artifact.

    Raises:
        ArtifactError: onnxruntime refuses the graph.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    try:
        session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
        total = Gap(0.0, 0, 0)
        for item in expected:
            (logits,) = session.run(["logits"], item.inputs)
            total += gap_of(item, logits)
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise ArtifactError(
            f"onnxruntime {onnxruntime.__version__} cannot run it: {error}", where=path.name
        ) from error
    return total
