"""Masked language modelling: the graph against torch on the original model; what the manifest says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from ravan_edge.artifact import Artifact, open_artifact
from ravan_edge.artifact.tensor_file import BASE_BOUNDS, read_header
from ravan_edge.errors import ModelError, UsageError
from ravan_edge.methods.registry import method_for
from ravan_edge.plans.whole import WholeStep
from ravan_export.adaptation import adapt
from ravan_export.export import export_artifact
from ravan_export.reference import autograd
from ravan_export.settings import ExportSettings
from ravan_export.source import open_checkpoint
from ravan_export.tasks import TASKS
from tests.export.conftest import tiny_config
from tests.export.test_gradients import SETTINGS, Arrays, assert_close, batch, random_heads, run
from tests.export.word_models import SPECIAL, save_with_letters

TASK = "masked-lm"
KINDS = ("bert", "roberta", "distilbert")
PAD = {"roberta": 1}
MASK = SPECIAL.index("[MASK]")
WORDS = 60
Build = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="module")
def model(build_once: Build) -> Callable[[str], Path]:
    """``model(kind)``: a folder; ``bert-untied`` has a vocabulary matrix of its own."""

    def folder(kind: str) -> Path:
        def build(path: Path) -> None:
            config = tiny_config(kind.removesuffix("-untied"))
            config.tie_word_embeddings = not kind.endswith("-untied")
            save_with_letters(AutoModelForMaskedLM.from_config(config), path)

        return build_once(f"masked-{kind}", build)

    return folder


@pytest.fixture(scope="module")
def masked(build_once: Build, model: Callable[[str], Path]) -> Callable[..., Artifact]:
    """``masked(kind, method, slices)``: its artifact."""

    def artifact(kind: str, method: str = "ravan", slices: int = 8) -> Artifact:
        def build(path: Path) -> None:
            options: dict[str, Any] = {"method": method, "lora_budget": 2, "loss_slices": slices}
            export_artifact(model(kind), TASK, None, path, **options)

        return open_artifact(build_once(f"masked-artifact-{kind}-{method}-{slices}", build))

    return artifact


def some(rows: int, length: int, kind: str = "bert", share: float = 0.3) -> Arrays:
    """A batch with some tokens masked, at least one."""
    made = batch(rows, length, pad=PAD.get(kind, 0))
    chosen = np.random.default_rng(length).random((rows, length)) < share
    chosen[0, 0] = True
    chosen &= made["attention_mask"] == 1
    ids = made["input_ids"]
    labels = np.where(chosen, ids, -100)
    return made | {"input_ids": np.where(chosen, MASK, ids), "labels": labels}


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (KINDS[0], "ravan"),
        *(pytest.param(kind, "ravan", marks=pytest.mark.slow) for kind in KINDS[1:]),
        ("bert-untied", "ravan"),
        pytest.param("roberta", "fedit", marks=pytest.mark.slow),
    ],
)
def test_loss_and_gradients_are_those_of_the_original_model(
    kind: str, method: str, masked: Any, model: Any
) -> None:
    artifact = masked(kind, method)
    settings = ExportSettings(method=method, lora_budget=2)  # type: ignore[arg-type]
    task = TASKS[TASK](settings)
    source = task.load(open_checkpoint(model(kind), kind, TASK), ())
    adaptation = adapt(source.model, source.family, source.task_modules, settings)
    heads = random_heads(artifact)
    for rows, length in ((1, 1), (2, 24), (5, 3), (7, 11)):
        inputs = some(rows, length, kind)
        expected = autograd(task, source, adaptation, inputs, heads)
        result, gradients = run(artifact, inputs, heads)
        assert result.loss_sum == pytest.approx(expected.loss_sum, rel=1e-5)
        assert result.count == (inputs["labels"] >= 0).sum()
        assert_close(gradients, expected.gradients, 3e-5)


def test_padding_and_micro_batches_change_nothing(masked: Any) -> None:
    artifact = masked("roberta")
    heads = random_heads(artifact)
    inputs = some(5, 8, "roberta")
    whole, expected = run(artifact, inputs, heads)
    pad = {"input_ids": 1, "attention_mask": 0, "labels": -100}
    wide = {
        name: np.pad(array, ((0, 1), (0, 3)), constant_values=pad[name])
        for name, array in inputs.items()
    }
    result, found = run(artifact, wide, heads)
    assert result.loss_sum == pytest.approx(whole.loss_sum, rel=1e-5)
    assert (result.count, result.metrics) == (whole.count, whole.metrics)
    assert_close(found, expected)
    pieces = [{name: array[rows] for name, array in inputs.items()} for rows in ([0, 4], [1, 2, 3])]
    parts = [run(artifact, piece, heads) for piece in pieces]
    assert sum(part.count for part, _ in parts) == whole.count
    total = {name: sum(gradients[name] for _, gradients in parts) for name in expected}
    assert_close(total, expected)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0], ids=["one", "some", "all"])
def test_slices_change_nothing(masked: Any, share: float) -> None:
    """Fewer positions than slices, and many more."""
    inputs = some(4, 9, share=share)
    results = [
        run(masked("bert", slices=slices), inputs, random_heads(masked("bert")))
        for slices in (1, 8)
    ]
    (one, expected), (eight, found) = results
    assert eight.loss_sum == pytest.approx(one.loss_sum, rel=1e-5)
    assert (eight.count, eight.metrics) == (one.count, one.metrics)
    assert_close(found, expected)


def test_a_batch_without_any_masked_token(masked: Any) -> None:
    artifact = masked("bert")
    inputs = some(2, 5)
    inputs["labels"][:] = -100
    result, gradients = run(artifact, inputs, random_heads(artifact))
    assert (result.loss_sum, result.count) == (0.0, 0)
    assert all(not gradient.any() for gradient in gradients.values())


def test_the_evaluation_says_what_transformers_says(masked: Any, model: Any) -> None:
    import torch

    artifact = masked("distilbert")
    method = method_for(artifact.manifest)
    parameters = method.layout.pack(artifact.initial_heads())
    training = method.training(parameters, {})
    inputs = some(4, 9, "distilbert")
    with WholeStep(artifact, SETTINGS) as step:
        step.use_heads(training.running)
        found = step.evaluate(inputs, method.to_graph(parameters, training))
    assert found.logits is None
    original = AutoModelForMaskedLM.from_pretrained(model("distilbert"))
    with torch.no_grad():
        output = original(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    kept = inputs["labels"] >= 0
    assert found.loss_sum / found.count == pytest.approx(output.loss.item(), rel=1e-5)
    hits = (output.logits.argmax(-1).numpy() == inputs["labels"])[kept].sum()
    assert found.metrics == {"correct": hits}


def test_what_the_manifest_says(masked: Any, model: Any) -> None:
    manifest = masked("bert").manifest
    hub = AutoTokenizer.from_pretrained(model("bert"))
    assert manifest.text.mask_id == hub.mask_token_id == MASK
    assert manifest.text.special_ids == tuple(sorted(hub.all_special_ids))
    assert manifest.text.vocabulary == len(hub) == 57
    assert manifest.labels == ()
    assert {entry.role for entry in manifest.tensors} == {"core", "scale"}


def test_the_tied_matrix_is_stored_once_and_no_step_holds_all_logits(masked: Any) -> None:
    artifact = masked("bert")
    shapes = [
        spec.shape
        for spec in read_header(artifact.folder / "base.safetensors", BASE_BOUNDS).specs.values()
    ]
    assert shapes.count((WORDS, 16)) == 1
    assert shapes.count((WORDS,)) == 1
    graph = onnx.load(artifact.folder / "plans/whole/step.onnx", load_external_data=False).graph
    wide = [node for node in graph.node if node.op_type == "LogSoftmax"]
    assert len(wide) == 8


def test_refusals(tmp_path: Path, model: Any) -> None:
    def refused(folder: Path, message: str, **options: Any) -> None:
        with pytest.raises((ModelError, UsageError), match=message) as error:
            export_artifact(folder, TASK, out=tmp_path / "a", **options)
        assert error.value.hint
        assert not (tmp_path / "a").exists()

    encoder = save_with_letters(AutoModel.from_config(tiny_config("bert")), tmp_path / "encoder")
    refused(encoder, "no head for masked-lm")
    blind = tmp_path / "blind"
    save_with_letters(AutoModelForMaskedLM.from_config(tiny_config("bert")), blind, mask=False)
    refused(blind, "the tokenizer has no mask token")
    refused(model("bert"), "has no labels", labels=3)
    refused(model("bert"), "nothing to train", method="head-only")
    config = json.loads((blind / "tokenizer_config.json").read_text()) | {"mask_token": "<none>"}
    (blind / "tokenizer_config.json").write_text(json.dumps(config))
    refused(blind, "the tokenizer has no mask token")
