"""Masked language modelling from the command line: plain text in, a lower perplexity out."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForMaskedLM

from tests.cli.calls import ravan
from tests.export.conftest import tiny_config
from tests.export.word_models import save_with_letters

WORDS = ["anna", "otto", "sees", "goes", "to", "from", "oslo", "rome"]


@pytest.fixture(scope="module")
def artifact(
    build_once: Callable[[str, Callable[[Path], None]], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    from ravan_export.export import export_artifact

    def build(path: Path) -> None:
        folder = tmp_path_factory.mktemp("model")
        save_with_letters(AutoModelForMaskedLM.from_config(tiny_config("bert")), folder)
        export_artifact(
            folder, "masked-lm", None, path, lora_budget=8, targets="query,key,value,dense"
        )

    return build_once("letters-masked", build)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVAN_CACHE_DIR", str(tmp_path / "cache"))


def write(path: Path, rows: int, seed: int) -> Path:
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(2, 6))) for _ in range(rows)]
    between = "\n\n" if path.suffix == ".txt" else "\n"
    head = "" if path.suffix == ".txt" else "text,user\n"
    tail = [""] * rows if path.suffix == ".txt" else [f",u{index % 3}" for index in range(rows)]
    path.write_text(head + between.join(f"{a}{b}" for a, b in zip(texts, tail, strict=True)))
    return path


def test_train_and_eval(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = write(tmp_path / "a.txt", 120, 1), write(tmp_path / "b.csv", 40, 2)
    heads = tmp_path / "heads.safetensors"
    before = ravan(capsys, "eval", artifact, "--data", test, "--json").document
    trained = ravan(
        capsys, "train", artifact, "--data", train, "--out", heads, "--local-steps", 60,
        "--lr", 0.02, "--json",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    words = ("eval", artifact, "--heads", heads, "--data", test)
    after = ravan(capsys, *words, "--json").document
    assert after["loss"] < 0.9 * before["loss"]
    assert after["perplexity"] == pytest.approx(math.exp(after["loss"]))
    assert after["count"] == before["count"] >= 40
    assert after["classes"] == []
    assert f"({after['count']:,} masked tokens)" in ravan(capsys, *words).out
    # Scoring masks a row alike, whatever the batch.
    other = ravan(capsys, *words, "--batch-size", 7, "--json").document
    assert (other["count"], other["accuracy"]) == (after["count"], after["accuracy"])
    assert other["loss"] == pytest.approx(after["loss"], rel=1e-5)


def test_micro_batches_train_the_same(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The draw is one for the mini-batch, however it is cut."""
    train = write(tmp_path / "a.txt", 30, 1)
    losses = []
    for extra in ((), ("--micro-batch", 3)):
        call = ravan(
            capsys, "train", artifact, "--data", train, "--out", tmp_path / f"h{len(extra)}",
            "--local-steps", 4, "--json", *extra,
        )  # fmt: skip
        assert call.code == 0, call.err
        losses.append(call.document["losses"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_simulate(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ravan(
        capsys, "simulate", artifact, "--train", write(tmp_path / "a.csv", 60, 1),
        "--test", write(tmp_path / "b.csv", 20, 2), "--out", tmp_path / "run",
        "--partition", "column:user", "--per-round", 2, "--rounds", 3, "--local-steps", 15,
        "--lr", 0.02, "--max-length", 32, "--workers", 1, "--json",
    )  # fmt: skip
    assert call.code == 0, call.err
    assert call.document["final"]["loss"] < 0.95 * call.document["initial"]["loss"]


def test_there_is_no_label_to_predict(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ravan(capsys, "predict", artifact, "anna")
    assert call.code == 2
    assert "gives no label" in call.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text\nanna\n \n", "empty text"),
        ("a.txt", "", "empty"),
        ("a.pdf", "x", "unsupported suffix"),
    ],
)
def test_bad_data_ends_with_4(
    artifact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str,
    message: str,
) -> None:
    (tmp_path / name).write_text(content)
    call = ravan(capsys, "train", artifact, "--data", tmp_path / name, "--out", tmp_path / "h")
    assert call.code == 4
    assert message in call.err
    assert "Traceback" not in call.err
