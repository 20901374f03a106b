"""T5's encoder as a classifier: gradients of the original model, positions, sentence-t5's Dense."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import T5ForSequenceClassification

from ravan_edge.artifact.opening import Artifact, open_artifact
from ravan_edge.data.batches import Batch, split_micro_batches
from ravan_edge.errors import ModelError
from ravan_export.adaptation import adapt
from ravan_export.export import export_artifact
from ravan_export.families.t5 import EncoderVectors, _bucket_table, _offsets, _position_bias
from ravan_export.pooling import read_pooling
from ravan_export.reference import autograd
from ravan_export.settings import ExportSettings
from ravan_export.source import open_checkpoint
from ravan_export.tasks import TASKS
from tests.export.conftest import save
from tests.export.t5_models import KINDS, save_sentence_t5, save_t5, t5_model
from tests.export.test_gradients import assert_close, batch, random_heads, run

SHAPES = ((1, 1), (2, 24), (5, 11), (7, 9))


@pytest.fixture(scope="session")
def models(build_once: Any) -> Any:
    def folder(kind: str) -> Path:
        def build(path: Path) -> None:
            if kind == "sentence-t5":
                save_sentence_t5(path)
            elif kind == "sentence-t5-tanh":
                save_sentence_t5(path, bias=True, activation_function="torch.nn.Tanh")
            else:
                save_t5(path, kind)

        return Path(build_once(f"tiny-{kind}", build))

    return folder


@pytest.fixture(scope="session")
def classifier(build_once: Any, models: Any) -> Any:
    def artifact(kind: str, method: str = "ravan") -> Artifact:
        def build(path: Path) -> None:
            export_artifact(models(kind), labels=3, out=path, method=method, lora_budget=2)  # type: ignore[arg-type]

        return open_artifact(build_once(f"artifact-{kind}-{method}", build))

    return artifact


CASES = [
    *((kind, "ravan") for kind in (*KINDS, "sentence-t5", "sentence-t5-tanh")),
    ("t5", "fedit"),
    ("t5", "head-only"),
]


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        pytest.param(*case, marks=() if case[0] in {"t5", "sentence-t5"} else pytest.mark.slow)
        for case in CASES
    ],
)
def test_loss_and_gradients_are_those_of_the_original_encoder(
    kind: str, method: str, classifier: Any, models: Any
) -> None:
    artifact = classifier(kind, method)
    settings = ExportSettings(method=method, lora_budget=2)  # type: ignore[arg-type]
    task = TASKS["text-classification"](settings)
    source = task.load(open_checkpoint(models(kind), kind, task.name), artifact.manifest.labels)
    adaptation = adapt(source.model, source.family, source.task_modules, settings)
    heads = random_heads(artifact)
    for rows, length in SHAPES:
        inputs = batch(rows, length)
        inputs["labels"][-1] = -100 if rows > 1 else 2
        expected = autograd(task, source, adaptation, inputs, heads)
        result, gradients = run(artifact, inputs, heads)
        assert result.loss_sum == pytest.approx(expected.loss_sum, rel=1e-5)
        assert result.count == (rows - 1 or 1)
        assert_close(gradients, expected.gradients, 3e-5)


def test_query_and_value_of_every_block_adapt(classifier: Any) -> None:
    names = [layer.name for layer in classifier("t5").manifest.layers]
    assert names == [
        f"encoder.block.{block}.layer.0.SelfAttention.{side}" for block in (0, 1) for side in "qv"
    ]


def test_padding_and_micro_batches_change_nothing(classifier: Any) -> None:
    artifact = classifier("t5-gated")
    heads = random_heads(artifact)
    inputs = batch(5, 9)
    wide = {
        "input_ids": np.pad(inputs["input_ids"], ((0, 2), (0, 6))),
        "attention_mask": np.pad(inputs["attention_mask"], ((0, 2), (0, 6))),
        "labels": np.pad(inputs["labels"], (0, 2), constant_values=-100),
    }
    first, expected = run(artifact, inputs, heads)
    second, found = run(artifact, wide, heads)
    assert second.loss_sum == pytest.approx(first.loss_sum, rel=1e-5)
    assert_close(found, expected)
    labels = inputs.pop("labels")
    total = dict.fromkeys(expected, np.float32(0))
    for piece in split_micro_batches(Batch(inputs, labels), 2):
        _, part = run(artifact, piece.graph_inputs, heads)
        total = {name: total[name] + part[name] for name in total}  # type: ignore[misc]
    assert_close(total, expected)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_the_bias_of_positions_is_the_models_own(side: str) -> None:
    """At every distance, far beyond the outermost bucket."""
    model = t5_model("t5", relative_attention_num_buckets=32, relative_attention_max_distance=128)
    stack = getattr(model, side)
    with torch.no_grad():
        found = _position_bias(stack, _bucket_table(stack), _offsets(300))
        expected = stack.block[0].layer[0].SelfAttention.compute_bias(300, 300)
    assert torch.equal(found, expected)


def test_the_captured_encoder_gives_the_models_own_vectors(models: Any) -> None:
    task = TASKS["text-classification"](ExportSettings())
    source = task.load(open_checkpoint(models("t5-gated"), "t5", task.name), ("a", "b"))
    inputs = {name: torch.from_numpy(array) for name, array in batch(4, 20).items()}
    del inputs["labels"]
    with torch.no_grad():
        found = EncoderVectors(source.model)(**inputs)
        expected = source.model(**inputs).last_hidden_state
    kept = inputs["attention_mask"].bool()
    assert torch.allclose(found[kept], expected[kept], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("document", "most", "words"),
    [
        ('{"model_max_length": 777}', 777, "model_max_length"),
        ('{"model_max_length": 1000000000000000019884624838656}', 512, "names no"),
        ("{}", 512, "names no"),
        ("[", 512, "names no"),
        (None, 512, "names no"),
    ],
)
def test_the_longest_text_is_the_tokenizers_or_512(
    document: str | None, most: int, words: str, models: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(models("t5"), tmp_path / "t5"))
    if document is not None:
        (folder / "tokenizer_config.json").write_text(document)
    task = TASKS["text-classification"](ExportSettings())
    source = task.load(open_checkpoint(folder, "t5", task.name), ("a", "b"))
    assert source.text is not None
    assert source.text.max_length == most
    assert any(str(most) in notice and words in notice for notice in source.notices)


def no_dense_weights(folder: Path) -> None:
    path = folder / "2_Dense" / "model.safetensors"
    path.rename(path.with_name("pytorch_model.bin"))


def cut_dense_weights(folder: Path) -> None:
    path = folder / "2_Dense" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:50])


def change_dense(**values: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / "2_Dense" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def change_modules(order: tuple[int, ...]) -> Any:
    def change(folder: Path) -> None:
        path = folder / "modules.json"
        modules = json.loads(path.read_text())
        path.write_text(json.dumps([modules[index] for index in order]))

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (change_dense(activation_function="torch.nn.modules.activation.GELU"), "'GELU'"),
        (change_dense(out_features=11), "16 to 11"),
        (change_dense(bias=True), "tensors are not those"),
        (change_dense(module_input_name="token_embeddings"), "module_input_name"),
        (no_dense_weights, "cannot be read"),
        (cut_dense_weights, "cannot be read"),
        (change_modules((0, 2, 1, 3)), "order Transformer, Dense, Pooling"),
        (change_modules((0, 1, 2, 2, 3)), "order"),
    ],
)
def test_a_dense_module_that_is_not_exact_here_is_refused(
    damage: Any, words: str, models: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(models("sentence-t5"), tmp_path / "model"))
    damage(folder)
    with pytest.raises(ModelError, match=words) as caught:
        read_pooling(folder)
    assert caught.value.hint


def test_a_classifier_behind_a_decoder_is_refused(tmp_path: Path) -> None:
    save(T5ForSequenceClassification(t5_model("t5").config), tmp_path / "model")
    with pytest.raises(ModelError, match="T5ForSequenceClassification has a task head") as caught:
        export_artifact(tmp_path / "model", labels=2, out=tmp_path / "out")
    assert caught.value.exit_code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_task_head_reads_the_dense_vector(classifier: Any) -> None:
    """The Dense module's outputs enter the task head, not the encoder's."""
    shapes = {entry.name: entry.shape for entry in classifier("sentence-t5").manifest.tensors}
    assert shapes["task_head.weight"] == (3, 10)
