"""Plan ``ort-training`` beyond the contract: its environment, its files, its own training loop."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from ravan_edge.artifact import Artifact, open_artifact
from ravan_edge.artifact.graph_check import check_graphs
from ravan_edge.artifact.manifest import Role
from ravan_edge.artifact.signature import PLAN_FORMS
from ravan_edge.artifact.tensor_file import BASE_BOUNDS, read_header
from ravan_edge.errors import ArtifactError, MissingExtraError, ModelError, NumericsError
from ravan_edge.methods import method_for
from ravan_edge.plans import RuntimeSettings, open_step
from ravan_edge.plans import ort_training as plan_file
from ravan_edge.plans.child import child_environment
from ravan_edge.plans.ort_training import ENVIRONMENT_VARIABLE, find_python
from ravan_edge.plans.worker_step import WorkerStep
from ravan_export.adaptation import adapt
from ravan_export.export import export_artifact
from ravan_export.plans import ort_training as exporter
from ravan_export.reference import autograd
from ravan_export.settings import ExportSettings
from ravan_export.source import open_checkpoint
from ravan_export.tasks import TASKS
from tests.contract.cases import CASES, random_batch

BuildOnce = Callable[[str, Callable[[Path], None]], Path]

SETTINGS = RuntimeSettings(threads=1)
OPTIONS: dict[str, Any] = {"lora_budget": 2}
PLANS = ("whole", "ort-training")
CASE = next(case for case in CASES if case.name == "bert")


@pytest.fixture(scope="module")
def model(build_once: BuildOnce) -> Path:
    return build_once(f"contract-model-{CASE.name}-{CASE.task}", CASE.build)


@pytest.fixture(scope="module")
def artifact(build_once: BuildOnce, model: Path) -> Artifact:
    def build(path: Path) -> None:
        export_artifact(model, CASE.task, CASE.labels, path, plans=PLANS, **OPTIONS)

    return open_artifact(build_once(f"contract-ort-training-{CASE.name}-{CASE.task}", build))


# -- the environment ------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No environment in any of the places."""
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "here" / ".venv"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("nowhere")
def test_without_an_environment_the_message_says_how_to_make_it(artifact: Artifact) -> None:
    with pytest.raises(MissingExtraError, match="there is none") as caught:
        open_step(artifact, "ort-training", SETTINGS)
    assert caught.value.exit_code == 8
    assert caught.value.hint == "make ort-training"


def test_without_a_checkout_the_command_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_file, "__file__", str(tmp_path / "a" / "b" / "plan.py"))
    command = plan_file._build_hint()
    assert "3.11 -m venv " in command
    assert str(plan_file._own_folder()) in command
    assert command.endswith('-m pip install "ravan-edge[ort-training]"')


def test_a_named_environment_that_is_not_there(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(nowhere / "gone"))
    with pytest.raises(MissingExtraError, match=r"RAVAN_ORT_TRAINING=.*gone: .* not there"):
        find_python()


@pytest.mark.skipif(sys.platform == "win32", reason="makes a Posix environment")
def test_where_the_environment_is_looked_for(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(folder: Path) -> Path:
        python = folder / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.touch()
        return python

    last = make(plan_file._own_folder())
    try:
        assert find_python() == last
        make(nowhere / ".venv-ort-training")  # the current folder may be anybody's
        assert find_python() == last
        beside = make(nowhere / "here" / ".venv-ort-training")
        assert find_python() == beside
        named = make(nowhere / "named")
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(nowhere / "named"))
        assert find_python() == named
    finally:
        shutil.rmtree(plan_file._own_folder())


def test_an_environment_with_the_stock_runtime_is_refused(artifact: Artifact) -> None:
    with pytest.raises(MissingExtraError, match="without training"):
        WorkerStep(
            artifact, "ort-training", SETTINGS,
            python=sys.executable, module="ravan_edge.plans.ort_training_worker",
        )  # fmt: skip


def test_the_two_runtimes_that_share_a_module_are_never_together(root: Path) -> None:
    names = {
        file: {line.split("==")[0].lower() for line in (root / file).read_text("utf-8").split()}
        for file in ("constraints.txt", "constraints-ort-training.txt")
    }
    assert "onnxruntime-training-cpu" not in names["constraints.txt"]
    assert not names["constraints-ort-training.txt"] & {"onnxruntime", "torch"}


# -- the files ------------------------------------------------------------------------------------


def test_the_base_is_there_once_and_the_checkpoint_holds_what_trains(artifact: Artifact) -> None:
    plan = artifact.manifest.plans["ort-training"]
    assert plan.worst_error is not None
    assert plan.worst_error <= 1e-5
    assert set(plan.blobs) == {
        "base.safetensors", "plans/ort-training/checkpoint",
        "plans/ort-training/optimizer_model.onnx",
    }  # fmt: skip
    trained = sum(4 * entry.size for entry in artifact.manifest.tensors)
    size = artifact.manifest.files["plans/ort-training/checkpoint"].size
    assert trained <= size <= trained + 200 * len(artifact.manifest.tensors) + 1000
    for name in ("training_model", "eval_model", "optimizer_model"):
        path = artifact.folder / "plans" / "ort-training" / f"{name}.onnx"
        made = onnx.load(path, load_external_data=False)
        assert made.ir_version <= 10
        assert {item.domain for item in made.opset_import} <= {"", "com.microsoft"}
        inside = [item for item in made.graph.initializer if not item.external_data]
        assert all(np.prod(item.dims) <= 64 for item in inside), "frozen numbers lie in the base"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fedit", "head-only"])
def test_the_other_methods(model: Path, tmp_path: Path, method: Any) -> None:
    """The export compares every gradient with torch's before it gives the artifact its name."""
    made = export_artifact(
        model, CASE.task, CASE.labels, tmp_path / "a", plans=PLANS, method=method, **OPTIONS
    )
    error = made.manifest.plans["ort-training"].worst_error
    assert error is not None
    assert 0 < error <= 1e-5


@pytest.mark.slow
def test_equal_exports_are_equal_bytes(artifact: Artifact, model: Path, tmp_path: Path) -> None:
    again = export_artifact(
        model, CASE.task, CASE.labels, tmp_path / "again", plans=PLANS, name="again", **OPTIONS
    )
    for path, entry in artifact.manifest.files.items():
        assert again.manifest.files[path] == entry, path


def test_a_model_that_the_runtime_cannot_differentiate(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exporter._for_the_tools

    def spoilt(made: onnx.ModelProto, *more: Any) -> Any:
        external = real(made, *more)
        for node in made.graph.node:
            if node.op_type == "Softmax":  # Hardmax has no gradient there
                node.op_type = "Hardmax"
        return external

    monkeypatch.setattr(exporter, "_for_the_tools", spoilt)
    with pytest.raises(ModelError, match="onnxruntime-training makes no training model") as caught:
        export_artifact(model, CASE.task, CASE.labels, tmp_path / "a", plans=PLANS, **OPTIONS)
    assert "leave ort-training out of --plans" in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_tools_that_do_not_come_back_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "sleeps.py"
    script.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(exporter, "_SCRIPT", script)
    monkeypatch.setattr(exporter, "_SECONDS", 0.3)
    monkeypatch.setattr(exporter, "find_python", lambda: Path(sys.executable))
    with pytest.raises(ModelError, match=r"took more than 0\.3 s") as caught:
        exporter._generate(onnx.ModelProto(), tmp_path, [])
    assert "leave plan ort-training out" in str(caught.value)


def _without(artifact: Artifact, tmp_path: Path, name: str, content: bytes) -> Artifact:
    """A copy with another content of one file, of which nobody looks at the digest."""
    folder = tmp_path / "copy"
    shutil.copytree(artifact.folder, folder)
    path = folder / "plans" / "ort-training" / name
    path.write_bytes(content.ljust(path.stat().st_size, b"\0")[: path.stat().st_size])
    return open_artifact(folder, check_digests=False)


@pytest.mark.parametrize("name", ["training_model.onnx", "eval_model.onnx"])
def test_a_model_that_the_runtime_cannot_load(
    artifact: Artifact, tmp_path: Path, name: str
) -> None:
    broken = _without(artifact, tmp_path, name, b"\xff nonsense")
    with open_step(broken, "ort-training", SETTINGS) as step:
        batch = random_batch(CASE, artifact.manifest, 2, 5, 0)
        with pytest.raises(ArtifactError, match="onnxruntime-training cannot load"):
            step.evaluate(batch.graph_inputs, {})


@pytest.mark.parametrize("name", ["training_model", "eval_model", "optimizer_model"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda graph: setattr(graph.node[0], "domain", "evil"), "'evil:"),
        (lambda graph: graph.initializer.append(_outside()), "lies in '../secret'"),
    ],
    ids=["domain", "outside"],
)
def test_what_its_files_may_not_hold(
    artifact: Artifact, tmp_path: Path, name: str, spoil: Callable[[Any], None], said: str
) -> None:
    """With digests that fit: what comes from elsewhere is checked before a runtime sees it."""
    path = artifact.folder / "plans" / "ort-training" / f"{name}.onnx"
    made = onnx.load(path, load_external_data=False)
    spoil(made.graph)
    header = read_header(artifact.folder / "base.safetensors", BASE_BOUNDS)
    plan = artifact.manifest.plans["ort-training"]
    for other in {*plan.graphs.values(), *(item for item in plan.blobs if item.endswith(".onnx"))}:
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.folder / other, tmp_path / other)
    check_graphs(tmp_path, plan, header, PLAN_FORMS["ort-training"])
    (tmp_path / path.relative_to(artifact.folder)).write_bytes(made.SerializeToString())
    with pytest.raises(ArtifactError, match=said):
        check_graphs(tmp_path, plan, header, PLAN_FORMS["ort-training"])


def _outside() -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="stolen", data_type=1, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_a_batch_that_the_runtime_cannot_run(artifact: Artifact) -> None:
    batch = dict(random_batch(CASE, artifact.manifest, 2, 5, 0).graph_inputs)
    batch["input_ids"] = batch["input_ids"] + 100_000
    with (
        open_step(artifact, "ort-training", SETTINGS) as step,
        pytest.raises(NumericsError, match="could not run the step"),
    ):
        step.train(batch, {})


# -- its own loop ---------------------------------------------------------------------------------


def test_its_own_optimiser_takes_the_steps_of_torch_optim(
    artifact: Artifact, model: Path, tmp_path: Path
) -> None:
    """An app with onnxruntime-training trains H and s with that runtime's AdamW."""
    steps, lr = 20, 1e-2
    rng = np.random.default_rng(3)
    manifest = artifact.manifest
    layout = method_for(manifest).layout
    start = {
        entry.name: (
            (1.0 if entry.role == Role.SCALE else 0.0) + 0.3 * rng.standard_normal(entry.shape)
        ).astype(np.float32)
        for entry in manifest.tensors
    }
    odd = next(iter(start.values())).reshape(-1)
    odd[:3] = -0.0, 1e-42, np.nextafter(np.float32(1), np.float32(2))
    batches = [random_batch(CASE, manifest, 4, 8, seed).graph_inputs for seed in range(4)]
    given: dict[str, Any] = {**start, "steps": steps, "lr": lr}
    for number in range(steps):
        given |= {f"{number}.{name}": item for name, item in batches[number % 4].items()}
    np.savez(tmp_path / "in.npz", **given)
    python = str(find_python())
    environment = child_environment(python, threads=1)
    subprocess.run(
        [python, "-P", "-m", "tests.plans.ort_training_native", str(artifact.folder),
         str(tmp_path / "in.npz"), str(tmp_path / "out.npz")],
        check=True, env=environment,
    )  # fmt: skip
    found = np.load(tmp_path / "out.npz")
    for name, value in start.items():
        assert found[f"read.{name}"].tobytes() == value.tobytes(), "what was written is read back"

    settings = ExportSettings(**OPTIONS)
    task = TASKS[CASE.task](settings)
    source = task.load(open_checkpoint(model, CASE.name, CASE.task), manifest.labels)
    adaptation = adapt(source.model, source.family, source.task_modules, settings)
    theirs = {
        name: torch.from_numpy(value.copy()).requires_grad_() for name, value in start.items()
    }
    optimiser = torch.optim.AdamW(theirs.values(), lr=lr, eps=1e-8, weight_decay=0.0)
    for number in range(steps):
        values = {name: tensor.detach().numpy() for name, tensor in theirs.items()}
        expected = autograd(task, source, adaptation, batches[number % 4], values)
        for name, tensor in theirs.items():
            tensor.grad = torch.from_numpy(expected.gradients[name])
        optimiser.step()
    first = layout.pack(start)
    reached = layout.pack({name: tensor.detach().numpy() for name, tensor in theirs.items()})
    ours = layout.pack({name: found[f"reached.{name}"] for name in start})
    distance = np.linalg.norm(ours - reached) / np.linalg.norm(reached - first)
    assert np.linalg.norm(reached - first) > 0.1
    assert distance <= 1e-4
