"""Plan ``executorch`` beyond the contract: its fixed sizes, its files, its runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ravan_edge.artifact import Artifact, open_artifact
from ravan_edge.data import Batch
from ravan_edge.errors import ArtifactError, MissingExtraError, UsageError
from ravan_edge.methods import method_for
from ravan_edge.plans import RuntimeSettings, open_step
from ravan_edge.plans.step import Step
from ravan_export.export import export_artifact
from ravan_export.plans import executorch as exporter
from tests.contract.cases import CASES, random_batch

BuildOnce = Callable[[str, Callable[[Path], None]], Path]

pytestmark = pytest.mark.slow  # a program takes minutes to lower

SETTINGS = RuntimeSettings(threads=1)
CASE = next(case for case in CASES if case.name == "sentence")
ROWS, LENGTH = 4, 16


@pytest.fixture(scope="module")
def artifact(build_once: BuildOnce) -> Artifact:
    """The contract's own."""
    model = build_once(f"contract-model-{CASE.name}-{CASE.task}", CASE.build)

    def build(path: Path) -> None:
        export_artifact(
            model, CASE.task, CASE.labels, path, plans=("whole", "executorch"), lora_budget=2,
            plan_rows=ROWS, plan_length=LENGTH,
        )  # fmt: skip

    return open_artifact(build_once(f"contract-executorch-{CASE.name}-{CASE.task}", build))


@pytest.fixture(scope="module")
def step(artifact: Artifact) -> Iterator[Step]:
    with open_step(artifact, "executorch", SETTINGS) as step:
        yield step


def batch_of(artifact: Artifact, rows: int, length: int) -> Batch:
    return random_batch(CASE, artifact.manifest, rows, length, seed=1)


def test_the_manifest_says_what_the_program_is(artifact: Artifact) -> None:
    plan = artifact.manifest.plans["executorch"]
    assert plan.limits == {"batch": ROWS, "length": LENGTH}
    assert plan.graphs["step"] == plan.graphs["eval"] == "plans/executorch/step.pte"
    assert plan.blobs == ("plans/executorch/base.ptd",)
    assert "delegate:XnnpackBackend" in plan.operators
    assert not [name for name in plan.operators if name.startswith("aten::addmm")]
    assert plan.planned_bytes is not None
    assert plan.planned_bytes > 0
    assert plan.worst_error is not None
    assert 0 < plan.worst_error <= 1e-5


def test_frozen_numbers_lie_in_the_data_file_alone(artifact: Artifact) -> None:
    base = artifact.base["embeddings.word_embeddings.weight"].tobytes()
    folder = artifact.folder / "plans" / "executorch"
    assert base in (folder / "base.ptd").read_bytes()
    assert base not in (folder / "step.pte").read_bytes()


def test_logits_have_the_batchs_own_size(artifact: Artifact, step: Step) -> None:
    method = method_for(artifact.manifest)
    heads = method.layout.pack(artifact.initial_heads())
    training = method.training(heads, None)
    step.use_heads(training.running)
    batch = batch_of(artifact, 7, 9)
    found = step.evaluate(batch.graph_inputs, method.to_graph(heads, training))
    with open_step(artifact, "whole", SETTINGS) as other:
        other.use_heads(training.running)
        expected = other.evaluate(batch.graph_inputs, method.to_graph(heads, training))
    assert found.logits is not None
    assert expected.logits is not None
    assert found.logits.shape == expected.logits.shape
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-5)


def test_a_row_that_is_too_long_is_refused(artifact: Artifact, step: Step) -> None:
    method = method_for(artifact.manifest)
    heads = method.layout.pack(artifact.initial_heads())
    training = method.training(heads, None)
    inputs = method.to_graph(heads, training)
    with pytest.raises(
        UsageError, match=f"length {LENGTH + 1}, but plan .* at most {LENGTH}"
    ) as caught:
        step.train(batch_of(artifact, 2, LENGTH + 1).graph_inputs, inputs)
    assert f"--max-length {LENGTH}" in str(caught.value)
    assert caught.value.exit_code == 2
    step.train(batch_of(artifact, 2, LENGTH).graph_inputs, inputs)


def test_heads_that_do_not_run_count_as_zero(artifact: Artifact) -> None:
    """Two of four heads: the same as in plan whole, gradients of the two alone."""
    method = method_for(artifact.manifest)
    rng = np.random.default_rng(2)
    heads = method.layout.pack(artifact.initial_heads())
    chosen = {layer.name: np.array([1, 3], np.int32) for layer in artifact.manifest.layers}
    views = method.layout.views(heads)
    for layer in chosen:
        views[f"{layer}.H"][[1, 3]] = rng.standard_normal(views[f"{layer}.H"][[1, 3]].shape)
    batch = batch_of(artifact, 3, 8)
    training = method.training(heads, chosen)
    results = []
    for plan in ("executorch", "whole"):
        with open_step(artifact, plan, SETTINGS) as opened:
            opened.use_heads(training.running)
            results.append(opened.train(batch.graph_inputs, method.to_graph(heads, training)))
    found, expected = results
    assert found.loss_sum == pytest.approx(expected.loss_sum, rel=1e-5)
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        np.testing.assert_allclose(found.gradients[name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["step.pte", "base.ptd"])
def test_a_file_changed_after_the_export_is_refused(
    artifact: Artifact, tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(artifact.folder, tmp_path / "copy")
    path = folder / "plans" / "executorch" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="sha256") as caught:
        open_artifact(folder)
    assert name in str(caught.value)


def test_a_program_that_does_not_load_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    """Somebody between the check and the runtime."""
    folder = shutil.copytree(artifact.folder, tmp_path / "copy")
    path = folder / "plans" / "executorch" / "step.pte"
    path.write_bytes(b"\0" * path.stat().st_size)
    broken = replace(artifact, folder=folder)
    with pytest.raises(ArtifactError, match="ExecuTorch cannot load the program"):
        open_step(broken, "executorch", SETTINGS)


def test_without_executorch_the_command_is_named(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "executorch"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('no such thing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match="not installed") as caught:
        open_step(artifact, "executorch", SETTINGS)
    assert caught.value.exit_code == 8
    assert "ravan-edge[executorch]" in str(caught.value)


def test_exporting_without_executorch_is_refused_before_anything_is_lowered(
    monkeypatch: pytest.MonkeyPatch, artifact: Artifact, tmp_path: Path, build_once: BuildOnce
) -> None:
    del artifact
    monkeypatch.setattr(exporter, "find_spec", lambda _: None)
    model = build_once(f"contract-model-{CASE.name}-{CASE.task}", CASE.build)
    with pytest.raises(MissingExtraError, match="needs ExecuTorch"):
        export_artifact(
            model, CASE.task, CASE.labels, tmp_path / "new", plans=("whole", "executorch")
        )
    assert not list(tmp_path.iterdir())
