"""The contract of a plan: one class, every plan with every family that it can run.

Held against torch autograd, torch.optim and transformers on the original model, never against the
graph that was made from it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ravan_edge.artifact import Artifact, open_artifact
from ravan_edge.artifact.manifest import Role
from ravan_edge.artifact.signature import SIGNATURES
from ravan_edge.data import Batch
from ravan_edge.errors import ArtifactError
from ravan_edge.methods import Vector, method_for
from ravan_edge.plans import PLANS, RuntimeSettings, open_step
from ravan_edge.plans.conformance import relative_error
from ravan_edge.plans.step import Step
from ravan_edge.training import Adam, LocalSettings, evaluate, local_round, run_batch
from ravan_export.adaptation import Adaptation, adapt
from ravan_export.export import export_artifact
from ravan_export.reference import Reference, autograd
from ravan_export.settings import ExportSettings
from ravan_export.source import Source, open_checkpoint
from ravan_export.tasks import TASKS
from ravan_export.tasks.task import Task
from tests.contract.cases import CASES, Case, FixedRows, random_batch

Arrays = dict[str, NDArray[Any]]

_GRADIENTS = 1e-5
"""Relative. Where float32 torch itself is farther from float64, twice its own distance, as in the
export's own check: a tiny model with large random weights is ill-conditioned."""
_STEPS = 20


@dataclass(frozen=True)
class Ready:
    """One case with one plan, opened, and the original model beside it."""

    case: Case
    artifact: Artifact
    step: Step
    task: Task
    source: Source
    adaptation: Adaptation

    def batch(self, rows: int, length: int, seed: int = 1) -> Batch:
        """Random inputs and labels."""
        return random_batch(self.case, self.artifact.manifest, rows, length, seed)

    def random_heads(self, seed: int = 3) -> Vector:
        """Random values of all parameters, scales around 1."""
        rng = np.random.default_rng(seed)
        method = method_for(self.artifact.manifest)
        tensors = {
            entry.name: (
                (1.0 if entry.role == Role.SCALE else 0.0) + 0.3 * rng.standard_normal(entry.shape)
            ).astype(np.float32)
            for entry in self.artifact.manifest.tensors
        }
        return method.layout.pack(tensors)

    def run(self, batch: Batch, parameters: Vector, micro_batch: int | None = None) -> Found:
        """What the plan computes, as gradients of the parameters."""
        method = method_for(self.artifact.manifest)
        training = method.training(parameters, None)
        self.step.use_heads(training.running)
        result = run_batch(self.step, batch, method.to_graph(parameters, training), micro_batch)
        gradient = method.to_params(parameters, result.gradients, training)
        return Found(result.loss_sum, result.count, dict(result.metrics), gradient)

    def reference(self, batch: Batch, parameters: Vector, *, double: bool = False) -> Reference:
        """What torch autograd computes on the original model."""
        layout = method_for(self.artifact.manifest).layout
        if not double:
            return autograd(
                self.task,
                self.source,
                self.adaptation,
                batch.graph_inputs,
                layout.views(parameters),
            )
        self.source.model.double()
        try:
            return self.reference(batch, parameters)
        finally:
            self.source.model.float()


@dataclass(frozen=True)
class Found:
    loss_sum: float
    count: int
    metrics: dict[str, float]
    gradient: Vector


OPTIONS: dict[str, dict[str, Any]] = {
    # Smaller than some batches: those take several calls.
    "executorch": {"plan_rows": 4, "plan_length": 16},
}
"""How artifacts are exported for a plan."""

_QUICK: dict[str, set[str]] = {"executorch": set(), "ort-training": {"bert", "llama"}}
"""Of plans whose export takes longer, a few kinds of model are in `make test`."""
_EACH_KIND = {
    "bert", "distilbert", "roberta-words", "bert-masked", "sentence", "modernbert", "t5-encoder", "t5",
    "t5-gated", "llama", "qwen3", "gemma2", "gemma3", "vit", "deit-distilled",
}  # fmt: skip
"""With the same plans each kind of layers and each task is in `make test-full`, every pair in `make soak`."""


def _mark(plan: str, case: Case) -> pytest.MarkDecorator | None:
    if case.quick and case.name in _QUICK.get(plan, {case.name}):
        return None
    often = plan not in _QUICK or case.name in _EACH_KIND
    return pytest.mark.slow if often else pytest.mark.soak


def _pairs() -> Iterator[Any]:
    for plan in PLANS:
        for case in CASES:
            mark = _mark(plan, case)
            name = f"{plan}-{case.name}-{case.task}"
            yield pytest.param((plan, case), id=name, marks=() if mark is None else (mark,))


@pytest.fixture(scope="module", params=_pairs())
def ready(
    request: pytest.FixtureRequest, build_once: Callable[[str, Callable[[Path], None]], Path]
) -> Iterator[Ready]:
    """A plan's step with the original model."""
    plan, case = request.param
    options: dict[str, Any] = {"lora_budget": 2, **case.options}

    folder = build_once(f"contract-model-{case.name}-{case.task}", case.build)

    def build(path: Path) -> None:
        labels = case.labels if SIGNATURES[case.task].label_map else None
        plans = tuple(dict.fromkeys(("whole", plan)))
        export_artifact(
            folder, case.task, labels, path, plans=plans, **options, **OPTIONS.get(plan, {})
        )

    artifact = open_artifact(build_once(f"contract-{plan}-{case.name}-{case.task}", build))
    settings = ExportSettings(**options)
    task = TASKS[case.task](settings)
    source = task.load(open_checkpoint(folder, case.name, case.task), artifact.manifest.labels)
    adaptation = adapt(source.model, source.family, source.task_modules, settings)
    with open_step(artifact, plan, RuntimeSettings(threads=1)) as step:
        yield Ready(case, artifact, step, task, source, adaptation)


def _cancelled(scale: str, parameters: Vector, ready: Ready, exact: Mapping[str, Any]) -> float:
    """How much larger the relative error of ds may be than that of dG.

    A plan gives dG; ds_i = <H_i, dG_i> is the host's, a sum whose terms may cancel: an error e of dG
    is one of at most max |H_i| |e| in ds.
    """
    views = method_for(ready.artifact.manifest).layout.views(parameters)
    core = f"{scale.removesuffix('.s')}.H"
    d_g = exact[core] / views[scale][:, None, None]
    largest = np.linalg.norm(views[core].reshape(len(views[core]), -1), axis=1).max()
    return float(largest * np.linalg.norm(d_g) / np.linalg.norm(exact[scale]))


class TestPlan:
    @pytest.mark.parametrize(("rows", "length"), [(1, 6), (2, 9), (5, 13), (7, 4)])
    def test_loss_and_gradients_are_those_of_the_original_model(
        self, ready: Ready, rows: int, length: int
    ) -> None:
        batch, heads = ready.batch(rows, length), ready.random_heads()
        found, expected = ready.run(batch, heads), ready.reference(batch, heads)
        views = method_for(ready.artifact.manifest).layout.views(found.gradient)
        assert found.loss_sum == pytest.approx(expected.loss_sum, rel=_GRADIENTS)
        errors = {
            name: relative_error(views[name], expected.gradients[name])
            for name in expected.gradients
        }
        limits = dict.fromkeys(errors, _GRADIENTS)
        if max(errors.values()) > _GRADIENTS:
            exact = ready.reference(batch, heads, double=True).gradients
            for name in errors:
                own = relative_error(expected.gradients[name], exact[name])
                limits[name] = max(_GRADIENTS, 2 * own)
            for name in errors:
                if name.endswith(".s"):
                    core = f"{name.removesuffix('.s')}.H"
                    limits[name] = max(
                        limits[name], errors[core] * _cancelled(name, heads, ready, exact)
                    )
        above = {name: error for name, error in errors.items() if error > limits[name]}
        assert not above

    def test_twenty_steps_of_adam_are_torch_optims(self, ready: Ready) -> None:
        method = method_for(ready.artifact.manifest)
        start = ready.random_heads(4)
        batches = [ready.batch(4, 8, seed) for seed in range(4)]
        adam = Adam()
        ours, state = start.copy(), adam.init(len(start))
        theirs = {
            name: torch.from_numpy(array.copy()).requires_grad_()
            for name, array in method.layout.views(start).items()
        }
        optimiser = torch.optim.Adam(theirs.values(), lr=1e-2)
        for number in range(_STEPS):
            batch = batches[number % len(batches)]
            found = ready.run(batch, ours)
            state, ours = adam.apply(
                state, ours, found.gradient * np.float32(1 / found.count), 1e-2
            )
            values = method.layout.pack(
                {name: tensor.detach().numpy() for name, tensor in theirs.items()}
            )
            expected = ready.reference(batch, values)
            for name, tensor in theirs.items():
                tensor.grad = torch.from_numpy(expected.gradients[name] / found.count)
            optimiser.step()
        reached = method.layout.pack(
            {name: tensor.detach().numpy() for name, tensor in theirs.items()}
        )
        distance = np.linalg.norm(ours - reached) / np.linalg.norm(reached - start)
        assert distance <= 1e-4

    def test_padding_changes_nothing(self, ready: Ready) -> None:
        batch, heads = ready.batch(3, 7), ready.random_heads()
        wide = _padded(batch, ready.artifact)
        first, second = ready.run(batch, heads), ready.run(wide, heads)
        assert (second.count, second.metrics) == (first.count, first.metrics)
        assert second.loss_sum == pytest.approx(first.loss_sum, rel=_GRADIENTS)
        assert relative_error(second.gradient, first.gradient) <= _GRADIENTS

    @pytest.mark.parametrize("micro_batch", [1, 2, 4])
    def test_micro_batches_add_up(self, ready: Ready, micro_batch: int) -> None:
        batch, heads = ready.batch(5, 8), ready.random_heads()
        whole, pieces = ready.run(batch, heads), ready.run(batch, heads, micro_batch)
        assert (pieces.count, pieces.metrics) == (whole.count, whole.metrics)
        assert pieces.loss_sum == pytest.approx(whole.loss_sum, rel=_GRADIENTS)
        assert relative_error(pieces.gradient, whole.gradient) <= _GRADIENTS

    def test_untrained_heads_keep_their_bytes_and_the_update_is_the_difference(
        self, ready: Ready
    ) -> None:
        artifact = ready.artifact
        method = method_for(artifact.manifest)
        heads = method.fold(ready.random_heads(5))
        data = FixedRows(ready.batch(6, 8, seed=9))
        result = local_round(
            ready.step, method, heads, data, np.arange(5), LocalSettings(local_steps=3, lr=1e-2),
            layers={layer.name: layer.heads for layer in artifact.manifest.layers},
            seed=1, round=0, device=0, heads_to_train=2,
        )  # fmt: skip
        before, after = method.layout.views(heads), method.layout.views(result.parameters)
        update = method.layout.views(result.difference)
        assert np.abs(result.difference).max() > 0
        for layer in artifact.manifest.layers:
            core, scale = after[f"{layer.name}.H"], after[f"{layer.name}.s"]
            trained = result.training.trained[layer.name]
            assert len(trained) == 2
            for head in range(layer.heads):
                if head in trained:
                    moved = scale[head] * core[head] - before[f"{layer.name}.H"][head]
                    assert np.abs(moved).max() > 0
                    np.testing.assert_allclose(
                        update[f"{layer.name}.H"][head], moved, rtol=1e-5, atol=1e-7
                    )
                else:
                    assert core[head].tobytes() == before[f"{layer.name}.H"][head].tobytes()
                    assert scale[head] == 1.0
                    assert not update[f"{layer.name}.H"][head].any()

    def test_scores_are_transformers_own(self, ready: Ready) -> None:
        """At the initial heads the model is the pretrained one: ask transformers itself."""
        method = method_for(ready.artifact.manifest)
        initial = method.layout.pack(ready.artifact.initial_heads())
        batch = ready.batch(7, 9)
        found = evaluate(ready.step, method, initial, FixedRows(batch), np.arange(7), batch_size=3)
        if ready.source.pooling is not None:
            # A bare encoder has no scores of its own; our task head starts at zero on top of it.
            assert found.loss == pytest.approx(np.log(ready.case.labels), rel=_GRADIENTS)
            assert found.accuracy == np.mean(batch.labels[batch.labels != -100] == 0)
            return
        inputs = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
        labels = torch.from_numpy(batch.labels)
        with torch.no_grad():
            logits = ready.source.model(**inputs).logits
        if ready.case.task == "causal-lm":
            logits, labels = logits[:, :-1], labels[:, 1:]
        flat, wanted = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
        loss = torch.nn.functional.cross_entropy(flat, wanted, ignore_index=-100)
        kept = wanted != -100
        right = (flat.argmax(dim=-1) == wanted)[kept]
        assert found.count == int(kept.sum())
        assert found.loss == pytest.approx(float(loss), rel=_GRADIENTS)
        assert found.accuracy == pytest.approx(float(right.float().mean()))

    def test_an_artifact_with_a_flipped_byte_is_refused(self, ready: Ready, tmp_path: Path) -> None:
        files = [*ready.artifact.manifest.files, "manifest.json"]
        for number, name in enumerate(files):
            copy = shutil.copytree(ready.artifact.folder, tmp_path / str(number))
            path = copy / name
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 0x10
            path.write_bytes(content)
            with pytest.raises(ArtifactError):
                open_artifact(copy)


def _padded(batch: Batch, artifact: Artifact) -> Batch:
    """Two more rows without a label, and longer by three tokens where there are tokens."""
    text = artifact.manifest.text
    inputs: Arrays = {}
    for name, array in batch.inputs.items():
        width = [(0, 2), *((0, 3 if text is not None else 0) for _ in array.shape[1:])]
        fill = text.pad_id if text is not None and name.endswith("input_ids") else 0
        inputs[name] = np.pad(array, width, constant_values=fill)
    more = [(0, 2), *((0, 3) for _ in batch.labels.shape[1:])]
    return replace(batch, inputs=inputs, labels=np.pad(batch.labels, more, constant_values=-100))
