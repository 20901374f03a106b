"""The commands with ``--plan ort-training``: as with any other plan."""

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

BuildOnce = Callable[[str, Callable[[Path], None]], Path]

CASE = next(case for case in CASES if case.name == "bert")
PLAN = ("--plan", "ort-training")


@pytest.fixture(scope="module")
def artifact(build_once: BuildOnce) -> Path:
    """The contract's own."""
    model = build_once(f"contract-model-{CASE.name}-{CASE.task}", CASE.build)

    def build(path: Path) -> None:
        plans = ("whole", "ort-training")
        export_artifact(model, CASE.task, CASE.labels, path, plans=plans, lora_budget=2)

    return build_once(f"contract-ort-training-{CASE.name}-{CASE.task}", build)


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


def test_verify(capsys: pytest.CaptureFixture[str], artifact: Path) -> None:
    call = ravan(capsys, "verify", artifact, *PLAN, "--json")
    assert call.code == 0, call.err
    assert call.document["passed"]
    assert 0 < call.document["worst_error"] <= 1e-5


def test_train_ends_where_the_plan_whole_ends(
    capsys: pytest.CaptureFixture[str], artifact: Path, data: Path, tmp_path: Path
) -> None:
    losses = []
    for plan in ("whole", "ort-training"):
        call = ravan(
            capsys, "train", artifact, "--data", data, "--out", tmp_path / f"{plan}.safetensors",
            "--plan", plan, "--local-steps", 8, "--lr", 1e-2, "--json",
        )  # fmt: skip
        assert call.code == 0, call.err
        losses.append(call.document["losses"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_simulate_ends_where_the_plan_whole_ends(
    capsys: pytest.CaptureFixture[str], artifact: Path, data: Path, tmp_path: Path
) -> None:
    found = []
    for plan in ("whole", "ort-training"):
        call = ravan(
            capsys, "simulate", artifact, "--train", data, "--test", data,
            "--out", tmp_path / plan, "--plan", plan,
            "--devices", 4, "--rounds", 2, "--local-steps", 3, "--max-length", 32,
            "--workers", 2, "--json",
        )  # fmt: skip
        assert call.code == 0, call.err
        found.append(call.document)
    assert found[1]["devices"]["merged"] == found[0]["devices"]["merged"] > 0
    assert found[1]["devices"]["crashed"] == 0
    assert found[1]["final"]["loss"] == pytest.approx(found[0]["final"]["loss"], rel=1e-4)


def test_without_the_environment(
    capsys: pytest.CaptureFixture[str],
    artifact: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "gone"))
    for words in (
        ("verify", artifact),
        ("train", artifact, "--data", data, "--out", tmp_path / "h.safetensors"),
        (
            "simulate",
            artifact,
            "--train",
            data,
            "--out",
            tmp_path / "run",
            "--rounds",
            1,
            "--max-length",
            32,
        ),
    ):
        call = ravan(capsys, *words, *PLAN)
        assert call.code == 8, words
        assert call.err.count("\n") == 1
        assert "make ort-training" in call.err
