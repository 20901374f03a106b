"""The step's contract: gradients of the original model, padding, sums, any number of heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ravan_edge.artifact.opening import Artifact
from ravan_edge.methods.registry import method_for
from ravan_edge.plans.conformance import check_conformance, relative_error
from ravan_edge.plans.step import RuntimeSettings, StepResult
from ravan_edge.plans.whole import WholeStep
from ravan_export.adaptation import adapt
from ravan_export.reference import autograd
from ravan_export.settings import ExportSettings
from ravan_export.source import open_checkpoint
from ravan_export.tasks import TASKS

Arrays = dict[str, NDArray[Any]]
SETTINGS = RuntimeSettings(threads=1)
PAD = {"roberta": 1}
slow = pytest.mark.slow


def random_heads(artifact: Artifact, seed: int = 3) -> Arrays:
    rng = np.random.default_rng(seed)
    heads = {}
    for entry in artifact.manifest.tensors:
        start = 1.0 if entry.role == "scale" else 0.0
        heads[entry.name] = (start + 0.5 * rng.standard_normal(entry.shape)).astype(np.float32)
    return heads


def batch(rows: int, length: int, *, pad: int = 0, seed: int = 1) -> Arrays:
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, 60, (rows, length))
    mask = np.ones((rows, length), np.int64)
    for row in range(1, rows):
        mask[row, max(1, length - 2 * row) :] = 0
    ids[mask == 0] = pad
    return {"input_ids": ids, "attention_mask": mask, "labels": rng.integers(0, 3, rows)}


def run(artifact: Artifact, inputs: Arrays, heads: Arrays) -> tuple[StepResult, Arrays]:
    """The step's result, and gradients of the parameters."""
    method = method_for(artifact.manifest)
    parameters = method.layout.pack(heads)
    training = method.training(parameters, None)
    with WholeStep(artifact, SETTINGS) as step:
        step.use_heads(training.running)
        result = step.train(inputs, method.to_graph(parameters, training))
    gradients = method.to_params(parameters, result.gradients, training)
    return result, dict(method.layout.views(gradients))


def assert_close(found: Arrays, expected: Arrays, limit: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    errors = {name: relative_error(found[name], expected[name]) for name in found}
    worst = max(errors, key=lambda name: errors[name])
    assert errors[worst] <= limit, (worst, errors[worst])


KINDS = ("bert", "roberta", "distilbert", "sentence", "sentence-cls-max")


def combinations() -> list[Any]:
    """Every family with Ravan, every method with the sentence encoder; the rest is slow."""
    return [
        pytest.param(kind, method, marks=() if kind == "sentence" or method == "ravan" else slow)
        for kind in KINDS
        for method in ("ravan", "fedit", "head-only")
    ]


@pytest.mark.parametrize(("kind", "method"), combinations())
def test_loss_and_gradients_are_those_of_the_original_model(
    kind: str, method: str, exported: Any, tiny_model: Any
) -> None:
    artifact = exported(kind, method=method)
    settings = ExportSettings(method=method, lora_budget=2)  # type: ignore[arg-type]
    task = TASKS[artifact.manifest.task](settings)
    checkpoint = open_checkpoint(tiny_model(kind), kind, task.name)
    source = task.load(checkpoint, artifact.manifest.labels)
    adaptation = adapt(source.model, source.family, source.task_modules, settings)
    heads = random_heads(artifact)
    for rows, length in ((4, 11), (1, 1), (2, 24)):
        inputs = batch(rows, length, pad=PAD.get(kind, 0))
        inputs["labels"][-1] = -100 if rows > 1 else 2
        expected = autograd(task, source, adaptation, inputs, heads)
        result, gradients = run(artifact, inputs, heads)
        assert result.loss_sum == pytest.approx(expected.loss_sum, rel=1e-5)
        assert result.count == (rows - 1 or 1)
        # float32 of a tiny model with large weights: its own distance from float64 is near 1e-5
        assert_close(gradients, expected.gradients, 3e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: str, exported: Any) -> None:
    artifact = exported(kind, method="ravan")
    heads = random_heads(artifact)
    pad = PAD.get(kind, 0)
    inputs = batch(3, 9, pad=pad)
    wide = {
        "input_ids": np.pad(inputs["input_ids"], ((0, 2), (0, 5)), constant_values=pad),
        "attention_mask": np.pad(inputs["attention_mask"], ((0, 2), (0, 5))),
        "labels": np.pad(inputs["labels"], (0, 2), constant_values=-100),
    }
    first, expected = run(artifact, inputs, heads)
    second, found = run(artifact, wide, heads)
    assert second.loss_sum == pytest.approx(first.loss_sum, rel=1e-5)
    assert (second.count, second.metrics) == (first.count, first.metrics)
    assert_close(found, expected)


def test_micro_batches_add_up(exported: Any) -> None:
    artifact = exported("sentence", method="ravan")
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


@pytest.mark.parametrize("tokens", [1, 1 << 20])
def test_any_number_of_heads_and_either_order_of_products(tokens: int, exported: Any) -> None:
    """A layer may run fewer heads than it has; leaving out heads of zero changes nothing."""
    artifact = exported("sentence", method="ravan", tokens=tokens)
    whole = random_heads(artifact)
    layer = artifact.manifest.layers[0].name
    whole[f"{layer}.H"][[0, 2]] = 0
    inputs = batch(3, 9)
    _, expected = run(artifact, inputs, whole)
    method = method_for(artifact.manifest)
    graph_inputs = method.to_graph(
        method.layout.pack(whole), method.training(method.layout.pack(whole), None)
    )
    running = np.array([1, 3], np.int32)
    graph_inputs[f"{layer}.G"] = np.ascontiguousarray(graph_inputs[f"{layer}.G"][running])
    with WholeStep(artifact, SETTINGS) as step:
        step.use_heads({layer: running})
        result = step.train(inputs, graph_inputs)
    gradient = result.gradients[f"{layer}.G"]
    assert gradient.shape[0] == 2
    by_scale = gradient * whole[f"{layer}.s"][running, None, None]
    assert relative_error(by_scale, expected[f"{layer}.H"][running]) < 1e-5
    assert relative_error(result.gradients["task_head.weight"], expected["task_head.weight"]) < 1e-5


def test_both_orders_of_products_agree(exported: Any) -> None:
    inputs, results = batch(4, 12), []
    for tokens in (1, 1 << 20):
        artifact = exported("sentence", method="ravan", tokens=tokens)
        results.append(run(artifact, inputs, random_heads(artifact))[1])
    assert_close(results[0], results[1])


def test_the_evaluation_says_what_the_step_says(exported: Any) -> None:
    artifact = exported("sentence", method="ravan")
    method = method_for(artifact.manifest)
    parameters = method.layout.pack(random_heads(artifact))
    training = method.training(parameters, None)
    inputs = batch(6, 7)
    inputs["labels"][2] = -100
    with WholeStep(artifact, SETTINGS) as step:
        step.use_heads(training.running)
        graph_inputs = method.to_graph(parameters, training)
        trained, scored = step.train(inputs, graph_inputs), step.evaluate(inputs, graph_inputs)
    assert scored.loss_sum == pytest.approx(trained.loss_sum, rel=1e-6)
    assert (scored.count, scored.metrics) == (trained.count, trained.metrics)
    kept = inputs["labels"] != -100
    hits = (scored.logits.argmax(1) == inputs["labels"])[kept].sum()
    assert scored.metrics == {"correct": hits}


def test_stored_cases_repeat(exported: Any) -> None:
    artifact = exported("bert", method="ravan")
    with WholeStep(artifact, SETTINGS) as step:
        stored, results = check_conformance(artifact, step)
    assert [result.name for result in results] == ["a", "b"]
    assert len({case.batch for case in stored.cases}) == 2
    for case, result in zip(stored.cases, results, strict=True):
        assert result.worst[1] <= stored.tolerance
        assert case.loss_move >= 0.01


def test_a_batch_without_any_label_has_no_gradient(exported: Any) -> None:
    artifact = exported("sentence", method="ravan")
    inputs = batch(2, 5)
    inputs["labels"][:] = -100
    result, gradients = run(artifact, inputs, random_heads(artifact))
    assert (result.loss_sum, result.count) == (0.0, 0)
    assert all(not gradient.any() for gradient in gradients.values())


def test_an_empty_row_is_harmless(exported: Any) -> None:
    """A row of padding alone, for runtimes whose batch is fixed."""
    artifact = exported("sentence", method="ravan")
    heads = random_heads(artifact)
    inputs = batch(2, 5)
    padded = {name: np.concatenate([array, array[:1]]) for name, array in inputs.items()}
    padded["attention_mask"][-1] = 0
    padded["labels"][-1] = -100
    _, expected = run(artifact, inputs, heads)
    _, found = run(artifact, padded, heads)
    assert_close(found, expected)
