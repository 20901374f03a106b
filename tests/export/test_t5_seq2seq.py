"""T5 and mT5 as a whole: loss and gradients of the original model, padding on both sides, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import T5ForConditionalGeneration

from ravan_edge.artifact.opening import Artifact, open_artifact
from ravan_edge.data.batches import Batch, split_micro_batches
from ravan_edge.errors import ModelError, UsageError
from ravan_edge.methods.registry import method_for
from ravan_edge.plans.whole import WholeStep
from ravan_export.adaptation import adapt
from ravan_export.export import export_artifact
from ravan_export.reference import autograd
from ravan_export.settings import ExportSettings
from ravan_export.source import open_checkpoint
from ravan_export.tasks import TASKS
from tests.export.t5_models import VOCABULARY, save_t5
from tests.export.test_gradients import SETTINGS, assert_close, random_heads, run

Arrays = dict[str, NDArray[Any]]
TASK = "seq2seq"
slow = pytest.mark.slow
# Rows, length of the source, length of the target.
SHAPES = ((1, 1, 1), (2, 24, 3), (5, 4, 16), (7, 9, 8))


@pytest.fixture(scope="session")
def models(build_once: Any) -> Any:
    def folder(kind: str) -> Path:
        return Path(build_once(f"whole-{kind}", lambda path: save_t5(path, kind)))

    return folder


@pytest.fixture(scope="session")
def exported_pairs(build_once: Any, models: Any) -> Any:
    def artifact(kind: str, method: str = "ravan", **options: Any) -> Artifact:
        def build(path: Path) -> None:
            export_artifact(models(kind), TASK, out=path, method=method, lora_budget=2, **options)  # type: ignore[arg-type]

        name = "-".join(["pairs", kind, method, *(f"{k}.{v}" for k, v in sorted(options.items()))])
        return open_artifact(build_once(name, build))

    return artifact


def pairs(rows: int, length: int, target_length: int, seed: int = 1) -> Arrays:
    """Later rows are shorter on one side and then on the other; the last of several has no label."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, VOCABULARY, (rows, length))
    target = rng.integers(3, VOCABULARY, (rows, target_length))
    mask, target_mask = np.ones((rows, length), np.int64), np.ones((rows, target_length), np.int64)
    for row in range(1, rows):
        mask[row, max(1, length - 2 * row) :] = 0
        target_mask[row, max(1, target_length - 3 * (rows - row)) :] = 0
    ids[mask == 0] = target[target_mask == 0] = 0
    labels = np.where(target_mask == 1, target, -100)
    if rows > 2:
        labels[-1] = -100
    moved = np.concatenate([np.zeros((rows, 1), np.int64), target[:, :-1]], axis=1)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "decoder_input_ids": moved,
        "decoder_attention_mask": target_mask,
        "labels": labels,
    }


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("t5", "ravan"),
        pytest.param("t5-gated", "ravan", marks=slow),
        pytest.param("mt5", "ravan", marks=slow),
        pytest.param("t5-gated", "fedit", marks=slow),
    ],
)
def test_loss_and_gradients_are_those_of_the_original_model(
    kind: str, method: str, exported_pairs: Any, models: Any
) -> None:
    artifact = exported_pairs(kind, method)
    settings = ExportSettings(method=method, lora_budget=2)  # type: ignore[arg-type]
    task = TASKS[TASK](settings)
    source = task.load(open_checkpoint(models(kind), kind, TASK), ())
    assert (source.model.lm_head.weight is source.model.shared.weight) == (kind == "t5")
    adaptation = adapt(source.model, source.family, source.task_modules, settings)
    heads = random_heads(artifact)
    for shape in SHAPES:
        inputs = pairs(*shape)
        expected = autograd(task, source, adaptation, inputs, heads)
        result, gradients = run(artifact, inputs, heads)
        assert result.loss_sum == pytest.approx(expected.loss_sum, rel=1e-5)
        assert result.count == (inputs["labels"] != -100).sum()
        assert_close(gradients, expected.gradients, 3e-5)


def test_adapters_are_in_all_three_attentions_and_nothing_else_trains(exported_pairs: Any) -> None:
    manifest = exported_pairs("t5").manifest
    assert [layer.name for layer in manifest.layers if ".0.layer" in layer.name] == [
        "encoder.block.0.layer.0.SelfAttention.q",
        "encoder.block.0.layer.0.SelfAttention.v",
        "decoder.block.0.layer.0.SelfAttention.q",
        "decoder.block.0.layer.0.SelfAttention.v",
        "decoder.block.0.layer.1.EncDecAttention.q",
        "decoder.block.0.layer.1.EncDecAttention.v",
    ]
    assert {entry.role for entry in manifest.tensors} == {"core", "scale"}
    assert manifest.labels == ()
    text = manifest.text
    assert (text.pad_id, text.end_id, text.decoder_start_id) == (0, 1, 0)
    assert "logits" not in {item.name for item in manifest.plans["whole"].outputs["eval"]}


def test_the_evaluation_counts_the_likeliest_tokens(exported_pairs: Any, models: Any) -> None:
    """Against the model itself, at the start, where adapters add nothing."""
    import torch

    artifact = exported_pairs("t5-gated")
    method = method_for(artifact.manifest)
    heads = {
        entry.name: np.full(entry.shape, entry.role == "scale", np.float32)
        for entry in artifact.manifest.tensors
    }
    parameters = method.layout.pack(heads)
    training = method.training(parameters, None)
    inputs = pairs(5, 7, 9)
    with WholeStep(artifact, SETTINGS) as step:
        step.use_heads(training.running)
        scored = step.evaluate(inputs, method.to_graph(parameters, training))
    model = T5ForConditionalGeneration.from_pretrained(models("t5-gated")).eval()
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    with torch.no_grad():
        output = model(**tensors)
    kept = inputs["labels"] != -100
    hits = (output.logits.argmax(-1).numpy() == inputs["labels"])[kept].sum()
    assert scored.metrics == {"correct": hits}
    assert scored.loss_sum / scored.count == pytest.approx(float(output.loss), rel=1e-5)


def test_padding_of_either_side_changes_nothing(exported_pairs: Any) -> None:
    artifact = exported_pairs("t5")
    heads = random_heads(artifact)
    inputs = pairs(3, 6, 5)
    wide = {
        name: np.pad(
            array,
            ((0, 2), (0, 3 if name in ("input_ids", "attention_mask") else 4)),
            constant_values=-100 if name == "labels" else 0,
        )
        for name, array in inputs.items()
    }
    first, expected = run(artifact, inputs, heads)
    second, found = run(artifact, wide, heads)
    assert second.loss_sum == pytest.approx(first.loss_sum, rel=1e-5)
    assert (second.count, second.metrics) == (first.count, first.metrics)
    assert_close(found, expected)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_micro_batches_add_up(rows: int, exported_pairs: Any) -> None:
    artifact = exported_pairs("t5")
    heads = random_heads(artifact)
    inputs = pairs(7, 9, 8)
    whole, expected = run(artifact, inputs, heads)
    labels = inputs.pop("labels")
    loss, count = 0.0, 0
    total: Arrays = {name: np.zeros_like(array) for name, array in expected.items()}
    for piece in split_micro_batches(Batch(inputs, labels), rows):
        result, part = run(artifact, piece.graph_inputs, heads)
        loss, count = loss + result.loss_sum, count + result.count
        total = {name: total[name] + part[name] for name in total}
    assert (count, loss) == (whole.count, pytest.approx(whole.loss_sum, rel=1e-5))
    assert_close(total, expected)


def test_a_later_token_is_never_seen(exported_pairs: Any) -> None:
    artifact = exported_pairs("t5-gated")
    heads = random_heads(artifact)
    inputs = pairs(2, 5, 7)
    inputs["labels"][:, 3:] = -100
    first, expected = run(artifact, inputs, heads)
    inputs["decoder_input_ids"][:, 3:] = 7
    second, found = run(artifact, inputs, heads)
    assert second.loss_sum == pytest.approx(first.loss_sum, rel=1e-6)
    assert_close(found, expected)


@slow
def test_any_number_of_slices_gives_the_same(exported_pairs: Any) -> None:
    inputs = pairs(3, 6, 7)
    results = []
    for slices in (1, 8):
        artifact = exported_pairs("t5", loss_slices=slices)
        results.append(run(artifact, inputs, random_heads(artifact)))
    assert results[0][0].loss_sum == pytest.approx(results[1][0].loss_sum, rel=1e-5)
    assert_close(results[0][1], results[1][1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "head-only"}, "nothing to train"),
        ({"labels": 3}, "seq2seq has no labels"),
    ],
)
def test_options_that_do_not_fit(
    options: dict[str, Any], words: str, models: Any, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        export_artifact(models("t5"), TASK, out=tmp_path / "out", **options)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def changed(folder: Path, tmp_path: Path, **values: Any) -> Path:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return copy


def test_a_model_whose_texts_never_end_is_refused(models: Any, tmp_path: Path) -> None:
    folder = changed(models("t5"), tmp_path, eos_token_id=None)
    with pytest.raises(ModelError, match="no token ends a text") as caught:
        export_artifact(folder, TASK, out=tmp_path / "out")
    assert caught.value.exit_code == 3
    assert "eos_token_id" in str(caught.value)


def test_padding_begins_a_text_where_the_model_names_nothing_else(
    models: Any, tmp_path: Path
) -> None:
    folder = changed(models("t5"), tmp_path, decoder_start_token_id=None, pad_token_id=4)
    source = TASKS[TASK](ExportSettings()).load(open_checkpoint(folder, "t5", TASK), ())
    assert source.text is not None
    assert (source.text.pad_id, source.text.decoder_start_id) == (4, 4)
    assert any("decoder_start_token_id" in notice for notice in source.notices)


def test_a_model_without_a_decoder_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="bert cannot be exported for seq2seq") as caught:
        export_artifact(tiny_model("bert"), TASK, out=tmp_path / "out")
    assert "t5, mt5" in str(caught.value)
