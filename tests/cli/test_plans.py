"""The commands with another plan than ``whole``: the same results."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from ravan_edge.artifact import open_artifact
from ravan_edge.plans.ort_training import ENVIRONMENT_VARIABLE
from ravan_export.export import export_artifact
from tests.cli.calls import ravan
from tests.contract.cases import CASES
from tests.contract.test_plans import OPTIONS

BuildOnce = Callable[[str, Callable[[Path], None]], Path]

# Those that the contract has in `make test`, exported in the same way.
USED = {"executorch": "sentence", "ort-training": "bert"}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("executorch", marks=pytest.mark.slow),
        "ort-training",
    ],  # minutes to export
)
def plan(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def exported(plan: str, build_once: BuildOnce) -> Path:
    """The contract's own."""
    case = next(case for case in CASES if case.name == USED[plan])
    model = build_once(f"contract-model-{case.name}-{case.task}", case.build)

    def build(path: Path) -> None:
        export_artifact(
            model, case.task, case.labels, path, plans=("whole", plan), lora_budget=2,
            **OPTIONS.get(plan, {}),
        )  # fmt: skip

    return build_once(f"contract-{plan}-{case.name}-{case.task}", build)


@pytest.fixture(scope="module")
def artifact(plan: str, build_once: BuildOnce) -> Path:
    return exported(plan, build_once)


@pytest.fixture(scope="module")
def data(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = open_artifact(artifact).manifest.labels
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(90):
            label = number % len(labels)
            writer.writerow([" ".join(["a" if label else "b"] * (1 + number % 5)), labels[label]])
    return path


def test_verify(capsys: pytest.CaptureFixture[str], artifact: Path, plan: str) -> None:
    call = ravan(capsys, "verify", artifact, "--plan", plan, "--json")
    assert call.code == 0, call.err
    assert call.document["passed"]
    assert 0 < call.document["worst_error"] <= 1e-5


def test_train_ends_where_the_plan_whole_ends(
    capsys: pytest.CaptureFixture[str], artifact: Path, data: Path, tmp_path: Path, plan: str
) -> None:
    losses = []
    for name in ("whole", plan):
        call = ravan(
            capsys, "train", artifact, "--data", data, "--out", tmp_path / f"{name}.safetensors",
            "--plan", name, "--max-length", 16, "--local-steps", 8, "--lr", 1e-2, "--json",
        )  # fmt: skip
        assert call.code == 0, call.err
        losses.append(call.document["losses"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_simulate_ends_where_the_plan_whole_ends(
    capsys: pytest.CaptureFixture[str], artifact: Path, data: Path, tmp_path: Path, plan: str
) -> None:
    found = []
    for name in ("whole", plan):
        call = ravan(
            capsys, "simulate", artifact, "--train", data, "--test", data,
            "--out", tmp_path / name, "--plan", name,
            "--devices", 4, "--rounds", 2, "--local-steps", 3, "--max-length", 16,
            "--workers", 2, "--json",
        )  # fmt: skip
        assert call.code == 0, call.err
        found.append(call.document)
    assert found[1]["devices"]["merged"] == found[0]["devices"]["merged"] > 0
    assert found[1]["devices"]["crashed"] == 0
    assert found[1]["final"]["loss"] == pytest.approx(found[0]["final"]["loss"], rel=1e-4)


@pytest.mark.slow
def test_rows_longer_than_the_plan_takes(
    capsys: pytest.CaptureFixture[str], build_once: BuildOnce, tmp_path: Path
) -> None:
    artifact = exported("executorch", build_once)
    path, label = tmp_path / "rows.csv", open_artifact(artifact).manifest.labels[0]
    path.write_text(f"text,label\na,{label}\n")
    for words in (
        ("train", artifact, "--data", path, "--out", tmp_path / "h.safetensors"),
        ("eval", artifact, "--data", path),
        ("simulate", artifact, "--train", path, "--out", tmp_path / "run"),
    ):
        call = ravan(capsys, *words, "--plan", "executorch", "--max-length", 32)
        assert call.code == 2, words
        assert call.err.count("\n") == 1
        assert "this plan of the artifact takes at most 16 tokens" in call.err
    call = ravan(capsys, "eval", artifact, "--data", path, "--plan", "executorch")
    assert call.code == 0
    assert "texts are cut at 16 tokens" in call.err


def test_without_the_environment(
    capsys: pytest.CaptureFixture[str],
    build_once: BuildOnce,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    artifact, data = exported("ort-training", build_once), tmp_path / "rows.csv"
    label = open_artifact(artifact).manifest.labels[0]
    data.write_text("text,label\n" + f"a,{label}\n" * 90)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "gone"))
    for words in (
        ("verify", artifact),
        ("train", artifact, "--data", data, "--out", tmp_path / "h.safetensors"),
        ("simulate", artifact, "--train", data, "--out", tmp_path / "run", "--rounds", 1,
         "--max-length", 16),
    ):  # fmt: skip
        call = ravan(capsys, *words, "--plan", "ort-training")
        assert call.code == 8, words
        assert call.err.count("\n") == 1
        assert "make ort-training" in call.err
