"""Decoders: loss and gradients of the original model, padding, windows, tied weights, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from ravan_edge.artifact.opening import Artifact, open_artifact
from ravan_edge.errors import ModelError, UsageError
from ravan_edge.plans.whole import WholeStep
from ravan_export.adaptation import adapt
from ravan_export.export import export_artifact
from ravan_export.reference import autograd, to_float64
from ravan_export.settings import ExportSettings
from ravan_export.source import open_checkpoint
from ravan_export.tasks import TASKS
from tests.export.conftest import BuildOnce, Models
from tests.export.decoder_models import MODELS, QUICK, WORDS, save_decoder
from tests.export.test_gradients import SETTINGS, assert_close, random_heads, run

Arrays = dict[str, NDArray[Any]]
SHAPES = ((1, 2), (2, 6), (5, 9), (7, 13))


def every_model() -> list[Any]:
    return [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MODELS]


@pytest.fixture(scope="session")
def decoder(build_once: BuildOnce) -> Models:
    """``decoder(name)``: the folder of one of MODELS."""
    return lambda name: build_once(f"tiny-{name}", lambda path: save_decoder(name, path))


@pytest.fixture(scope="session")
def language(build_once: BuildOnce, decoder: Models) -> Any:
    """``language(name, ...)``: its opened artifact, made once for each set of options."""

    def artifact(name: str, **options: Any) -> Artifact:
        def build(path: Path) -> None:
            export_artifact(decoder(name), "causal-lm", out=path, lora_budget=2, **options)

        known = "-".join([name, *(f"{key}.{value}" for key, value in sorted(options.items()))])
        return open_artifact(build_once(f"artifact-lm-{known}", build))

    return artifact


def batch(rows: int, length: int, *, pad: int = 0, seed: int = 1) -> Arrays:
    """Random texts of decreasing length; the first row has a prompt, every fifth token counts nothing."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, WORDS, (rows, length))
    mask = np.ones((rows, length), np.int64)
    for row in range(1, rows):
        mask[row, max(1, length - 2 * row) :] = 0
    labels = np.where((mask == 1) & (rng.random((rows, length)) > 0.2), ids, -100)
    labels[0, : length // 3] = -100
    ids[mask == 0] = pad
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("name", every_model())
def test_loss_and_gradients_are_those_of_the_original_model(
    name: str, language: Any, decoder: Models
) -> None:
    artifact = language(name)
    settings = ExportSettings(lora_budget=2)
    task = TASKS["causal-lm"](settings)
    source = task.load(open_checkpoint(decoder(name), name, task.name), ())
    adaptation = adapt(source.model, source.family, source.task_modules, settings)
    heads = random_heads(artifact)
    for rows, length in SHAPES:
        inputs = batch(rows, length)
        with to_float64(source):
            exact = autograd(task, source, adaptation, inputs, heads)
        result, gradients = run(artifact, inputs, heads)
        assert result.loss_sum == pytest.approx(exact.loss_sum, rel=1e-5)
        assert result.count == (inputs["labels"][:, 1:] != -100).sum()
        # Against float64, at weights and heads that are large. Usual is 1e-6; the worst seen is 3.3e-5
        # (Gemma, 5 x 9), where float32 torch is 0.8e-5 away.
        assert_close(gradients, exact.gradients, 5e-5)


@pytest.mark.parametrize("name", every_model())
def test_padding_changes_nothing(name: str, language: Any) -> None:
    artifact = language(name)
    heads = random_heads(artifact)
    inputs = batch(3, 9)
    wide = {
        "input_ids": np.pad(inputs["input_ids"], ((0, 2), (0, 5)), constant_values=17),
        "attention_mask": np.pad(inputs["attention_mask"], ((0, 2), (0, 5))),
        "labels": np.pad(inputs["labels"], ((0, 2), (0, 5)), constant_values=-100),
    }
    first, expected = run(artifact, inputs, heads)
    second, found = run(artifact, wide, heads)
    assert second.loss_sum == pytest.approx(first.loss_sum, rel=1e-5)
    assert (second.count, second.metrics) == (first.count, first.metrics)
    assert_close(found, expected)


def test_micro_batches_add_up(language: Any) -> None:
    artifact = language("llama")
    heads = random_heads(artifact)
    inputs = batch(5, 8)
    whole, expected = run(artifact, inputs, heads)
    loss, count, total = 0.0, 0, dict.fromkeys(expected, np.float32(0))
    for rows in (slice(0, 2), slice(2, 5)):
        result, gradients = run(artifact, {k: v[rows] for k, v in inputs.items()}, heads)
        loss, count = loss + result.loss_sum, count + result.count
        total = {name: total[name] + gradients[name] for name in total}
    assert (count, loss) == (whole.count, pytest.approx(whole.loss_sum, rel=1e-5))
    assert_close(total, expected)


@pytest.mark.parametrize(("rows", "length"), [(2, 5), (1, 1)])
def test_where_nothing_counts_nothing_is_learned(rows: int, length: int, language: Any) -> None:
    artifact = language("llama")
    inputs = batch(rows, length)
    if length > 1:
        inputs["labels"][:] = -100
    inputs["labels"][:, 0] = 9  # the first label of a row never counts
    result, gradients = run(artifact, inputs, random_heads(artifact))
    assert (result.loss_sum, result.count, result.metrics) == (0.0, 0, {"correct": 0})
    assert all(not gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("counted", [1, 9])
def test_fewer_counted_positions_than_slices(counted: int, language: Any) -> None:
    """One slice and eight of them say the same, whatever is left over."""
    results = []
    for slices in (1, 8):
        artifact = language("llama", loss_slices=slices)
        inputs = batch(2, 9)
        labels = np.full((2, 9), -100)
        labels.reshape(-1)[np.array([1, 5, 8, 10, 11, 12, 13, 14, 16])[:counted]] = 11
        results.append(run(artifact, inputs | {"labels": labels}, random_heads(artifact)))
    (one, expected), (many, found) = results
    assert one.count == many.count == counted
    assert one.metrics == many.metrics
    assert many.loss_sum == pytest.approx(one.loss_sum, rel=1e-6)
    assert_close(found, expected, 5e-6)


def test_the_evaluation_says_what_the_step_says(language: Any) -> None:
    artifact = language("llama")
    inputs = batch(4, 9)
    heads = random_heads(artifact)
    trained, _ = run(artifact, inputs, heads)
    outputs = [tensor.name for tensor in artifact.manifest.plans["whole"].outputs["eval"]]
    assert outputs == ["loss_sum", "count", "correct"]  # logits of a vocabulary would fit no device
    from ravan_edge.methods.registry import method_for

    method = method_for(artifact.manifest)
    parameters = method.layout.pack(heads)
    training = method.training(parameters, None)
    with WholeStep(artifact, SETTINGS) as step:
        step.use_heads(training.running)
        scored = step.evaluate(inputs, method.to_graph(parameters, training))
    assert scored.loss_sum == pytest.approx(trained.loss_sum, rel=1e-6)
    assert (scored.count, scored.metrics) == (trained.count, trained.metrics)


def test_correct_counts_next_tokens(language: Any, decoder: Models) -> None:
    model = AutoModelForCausalLM.from_pretrained(decoder("llama"), attn_implementation="eager")
    artifact = language("llama")
    inputs = batch(3, 9)
    import torch

    with torch.no_grad():
        best = model(torch.from_numpy(inputs["input_ids"])).logits.argmax(-1).numpy()
    inputs["labels"][:, 1:6] = best[:, :5]  # the model's own choices
    inputs["labels"][1, 3] = (best[1, 2] + 1) % WORDS
    result, _ = run(artifact, inputs, artifact.initial_heads())
    targets = inputs["labels"][:, 1:]
    assert result.metrics["correct"] == ((best[:, :-1] == targets) & (targets != -100)).sum() >= 14


def external(artifact: Artifact) -> dict[str, tuple[str, ...]]:
    """Frozen matrices of the step: name -> operators that read it."""
    model = onnx.load(artifact.graph_path("whole", "step"), load_external_data=False)
    names = [item.name for item in model.graph.initializer if item.external_data]
    return {
        name: tuple(sorted({node.op_type for node in model.graph.node if name in node.input}))
        for name in names
    }


def test_a_tied_vocabulary_is_in_the_base_once(language: Any) -> None:
    tied, untied = language("llama"), language("llama-untied")
    readers = external(tied)
    assert readers["model.embed_tokens.weight"] == ("Gather", "Gemm")
    assert not any("lm_head" in name for name in tied.base)
    assert external(untied)["lm_head.weight"] == ("Gather", "Gemm")
    matrix = WORDS * 16
    assert sum(array.size == matrix for array in tied.base.values()) == 1
    assert sum(array.size == matrix for array in untied.base.values()) == 2


def test_what_the_manifest_says(language: Any) -> None:
    manifest = language("llama").manifest
    assert (manifest.task, manifest.labels, manifest.model.family) == ("causal-lm", (), "llama")
    assert {entry.role for entry in manifest.tensors} == {"core", "scale"}
    assert [layer.name for layer in manifest.layers] == [
        f"model.layers.{layer}.self_attn.{name}"
        for layer in (0, 1)
        for name in ("q_proj", "v_proj")
    ]
    assert (manifest.text.pad_id, manifest.text.end_id, manifest.text.max_length) == (0, 2, 64)
    shapes = {tensor.name: tensor.shape for tensor in manifest.plans["whole"].inputs}
    assert shapes["labels"] == shapes["input_ids"] == ("batch", "length")


def test_plain_lora_and_other_layers(language: Any) -> None:
    artifact = language("llama", method="fedit", targets="key,o_proj,down_proj")
    layers = {layer.name.rpartition(".")[2] for layer in artifact.manifest.layers}
    assert layers == {"k_proj", "o_proj", "down_proj"}


def changed(folder: Path, tmp_path: Path, **values: Any) -> Path:
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return copy


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"labels": 3}, UsageError, "causal-lm has no labels"),
        ({"method": "head-only"}, UsageError, "without a task head"),
        ({"loss_slices": 0}, UsageError, "--loss-slices"),
        ({"targets": "lm_head"}, ModelError, "no linear layer is called 'lm_head'"),
        ({"targets": "c_attn"}, ModelError, "this model has down_proj, gate_proj"),
        ({"task": "text-classification", "labels": 2}, ModelError, "llama cannot be exported for"),
    ],
)
def test_options_that_make_no_sense(
    options: dict[str, Any], error: type[Exception], words: str, decoder: Models, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"task": "causal-lm"} | options
    with pytest.raises(error, match=words) as caught:
        export_artifact(decoder("llama"), out=tmp_path / "out", **settings)
    assert getattr(caught.value, "hint", "") or "--" in str(getattr(caught.value, "where", ""))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("llama", {"model_type": "gpt2"}, "'gpt2' is not known"),
        ("llama", {"auto_map": {"AutoModel": "x.Y"}}, "code of its own"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
         "'dynamic' change with the length"),
        ("llama", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0,
                   "short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0],
                   "original_max_position_embeddings": 16}}, "'longrope' change with the length"),
        ("gemma3", {"use_bidirectional_attention": True}, "looks ahead"),
        ("llama", {"num_hidden_layers": 3}, "no parameter"),
        ("llama", {"tie_word_embeddings": False}, "no parameter 'lm_head.weight'"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_exported_exactly(
    name: str, values: dict[str, Any], words: str, decoder: Models, tmp_path: Path
) -> None:
    folder = changed(decoder(name), tmp_path, **values)
    with pytest.raises(ModelError, match=words) as caught:
        export_artifact(folder, "causal-lm", out=tmp_path / "out", lora_budget=2)
    assert caught.value.hint
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out").exists()


def test_an_encoder_has_no_next_token(tiny_model: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="bert cannot be exported for causal-lm") as caught:
        export_artifact(tiny_model("bert"), "causal-lm", out=tmp_path / "out")
    assert "llama" in (caught.value.hint or "")
