"""Token classification: the graph against torch on the original model, and its task head."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoModel, AutoModelForTokenClassification

from ravan_edge.artifact import Artifact, open_artifact
from ravan_edge.errors import ModelError, UsageError
from ravan_edge.methods.registry import method_for
from ravan_edge.plans.whole import WholeStep
from ravan_export.adaptation import adapt
from ravan_export.export import export_artifact
from ravan_export.reference import autograd
from ravan_export.settings import ExportSettings
from ravan_export.source import open_checkpoint
from ravan_export.tasks import TASKS
from tests.export.conftest import LABELS, save, tiny_config
from tests.export.test_gradients import SETTINGS, Arrays, assert_close, batch, random_heads, run

TASK = "token-classification"
KINDS = ("bert", "roberta", "distilbert")
PAD = {"roberta": 1}
Build = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="module")
def model(build_once: Build) -> Callable[[str], Path]:
    """``model(kind)``: a folder with a classifier of tokens."""

    def folder(kind: str) -> Path:
        return build_once(
            f"tagger-{kind}",
            lambda path: save(AutoModelForTokenClassification.from_config(tiny_config(kind)), path),
        )

    return folder


@pytest.fixture(scope="module")
def tagger(build_once: Build, model: Callable[[str], Path]) -> Callable[..., Artifact]:
    """``tagger(kind, method)``: its artifact."""

    def artifact(kind: str, method: str = "ravan") -> Artifact:
        def build(path: Path) -> None:
            export_artifact(model(kind), TASK, LABELS, path, method=method, lora_budget=2)  # type: ignore[arg-type]

        return open_artifact(build_once(f"tagger-artifact-{kind}-{method}", build))

    return artifact


def words(rows: int, length: int, kind: str = "bert") -> Arrays:
    """A batch in which most tokens have a label."""
    made = batch(rows, length, pad=PAD.get(kind, 0))
    rng = np.random.default_rng(length)
    labels = rng.integers(0, LABELS, (rows, length))
    labels[(made["attention_mask"] == 0) | (rng.random((rows, length)) < 0.3)] = -100
    labels[0, 0] = 1
    return made | {"labels": labels}


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (KINDS[0], "ravan"),
        *(pytest.param(kind, "ravan", marks=pytest.mark.slow) for kind in KINDS[1:]),
        ("bert", "head-only"),
        pytest.param("distilbert", "fedit", marks=pytest.mark.slow),
    ],
)
def test_loss_and_gradients_are_those_of_the_original_model(
    kind: str, method: str, tagger: Any, model: Any
) -> None:
    artifact = tagger(kind, method)
    settings = ExportSettings(method=method, lora_budget=2)  # type: ignore[arg-type]
    task = TASKS[TASK](settings)
    source = task.load(open_checkpoint(model(kind), kind, TASK), artifact.manifest.labels)
    adaptation = adapt(source.model, source.family, source.task_modules, settings)
    heads = random_heads(artifact)
    for rows, length in ((1, 1), (2, 24), (5, 3), (7, 11)):
        inputs = words(rows, length, kind)
        expected = autograd(task, source, adaptation, inputs, heads)
        result, gradients = run(artifact, inputs, heads)
        assert result.loss_sum == pytest.approx(expected.loss_sum, rel=1e-5)
        assert result.count == (inputs["labels"] >= 0).sum()
        assert_close(gradients, expected.gradients, 3e-5)


def test_the_task_head_is_the_checkpoints_own(tagger: Any, model: Any) -> None:
    stored = load_file(model("bert") / "model.safetensors")
    heads = tagger("bert").initial_heads()
    for name in ("weight", "bias"):
        assert (heads[f"task_head.{name}"] == stored[f"classifier.{name}"]).all()


def test_padding_and_micro_batches_change_nothing(tagger: Any) -> None:
    artifact = tagger("roberta")
    heads = random_heads(artifact)
    inputs = words(5, 8, "roberta")
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
    parts = [
        run(artifact, {k: v[rows] for k, v in inputs.items()}, heads)
        for rows in ([0, 4], [1, 2, 3])
    ]
    assert sum(part.count for part, _ in parts) == whole.count
    total = {name: sum(gradients[name] for _, gradients in parts) for name in expected}
    assert_close(total, expected)


def test_the_evaluation_gives_logits_of_every_token(tagger: Any) -> None:
    artifact = tagger("bert")
    method = method_for(artifact.manifest)
    parameters = method.layout.pack(random_heads(artifact))
    training = method.training(parameters, None)
    inputs = words(4, 6)
    with WholeStep(artifact, SETTINGS) as step:
        step.use_heads(training.running)
        found = step.evaluate(inputs, method.to_graph(parameters, training))
    assert found.logits.shape == (4, 6, LABELS)
    kept = inputs["labels"] >= 0
    hits = (found.logits.argmax(-1) == inputs["labels"])[kept].sum()
    assert found.metrics == {"correct": hits}
    assert found.count == kept.sum()


def test_an_encoder_gets_a_new_task_head(tmp_path: Path) -> None:
    save(AutoModel.from_config(tiny_config("distilbert")), tmp_path / "m")
    names = ("O", "B-X", "I-X", "B-Y")
    exported = export_artifact(tmp_path / "m", TASK, names, tmp_path / "a", method="head-only")
    assert exported.manifest.labels == names
    assert exported.manifest.notices == (
        "the checkpoint has no classifier: its task head starts at random",
    )
    assert [entry.shape for entry in exported.manifest.tensors] == [(4, 16), (4,)]


def test_label_maps_of_files_of_words(tmp_path: Path, model: Any) -> None:
    rows = [
        {"tokens": ["a", "b"], "ner_tags": ["O", "B-X"]},
        {"tokens": ["c"], "ner_tags": ["I-X"]},
    ]
    data = tmp_path / "train.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    exported = export_artifact(model("bert"), TASK, data, tmp_path / "a", lora_budget=2)
    assert exported.manifest.labels == ("B-X", "I-X", "O")


def test_refusals(tmp_path: Path, model: Any) -> None:
    with pytest.raises(UsageError, match="needs a label map"):
        export_artifact(model("bert"), TASK, None, tmp_path / "a")
    with pytest.raises(ModelError, match="has 3 labels, --labels names 5"):
        export_artifact(model("bert"), TASK, 5, tmp_path / "a")
    assert not list(tmp_path.iterdir())
