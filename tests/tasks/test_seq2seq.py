"""Sequence to sequence from the command line: a file of pairs in, a smaller loss out."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ravan_edge.artifact import open_artifact
from ravan_edge.tasks import DataSource, task_for
from tests.cli.calls import ravan
from tests.export.t5_models import save_t5
from tests.simulate.same_run import comparable

Capture = pytest.CaptureFixture[str]
WORDS = ("an", "the", "can", "hand", "then", "bath")
COLUMNS = ("source", "target", "user")


@pytest.fixture(scope="module")
def artifact(
    build_once: Callable[[str, Callable[[Path], None]], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    from ravan_export.export import export_artifact

    def build(path: Path) -> None:
        folder = tmp_path_factory.mktemp("model")
        save_t5(folder, "t5")
        export_artifact(folder, "seq2seq", out=path, lora_budget=4, seed=1)

    return build_once("pairs-for-runs", build)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVAN_CACHE_DIR", str(tmp_path / "cache"))


def examples(rows: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """A few words, and the first of them twice."""
    rng = np.random.default_rng(seed)
    for number in range(rows):
        words = rng.choice(WORDS, rng.integers(1, 5)).tolist()
        yield " ".join(words), f"{words[0]} {words[0]}", f"u{number % 5}"


def write(path: Path, rows: int, seed: int) -> Path:
    """In the format that the suffix says."""
    made = list(examples(rows, seed))
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in made]
        path.write_text("\n".join(lines))
    elif path.suffix == ".parquet":
        columns = zip(COLUMNS, zip(*made, strict=True), strict=True)
        pq.write_table(pa.table({name: list(column) for name, column in columns}), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([COLUMNS, *made])
    return path


def test_every_format_gives_the_same_rows(artifact: Path, tmp_path: Path) -> None:
    opened = open_artifact(artifact)
    batches = []
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        source = DataSource(
            write(tmp_path / f"a.{suffix}", 9, 1), user_column="user", max_length=16
        )
        loaded = task_for(opened.manifest).load(opened, source)
        assert loaded.dataset.users is not None
        assert loaded.columns.label == "target"
        batches.append(loaded.dataset.batch(np.arange(9)))
    for batch in batches[1:]:
        for name, array in batches[0].graph_inputs.items():
            assert np.array_equal(batch.graph_inputs[name], array)


def test_train_and_eval(artifact: Path, tmp_path: Path, capsys: Capture) -> None:
    train, test = write(tmp_path / "a.csv", 120, 1), write(tmp_path / "b.tsv", 30, 2)
    heads = tmp_path / "heads.safetensors"
    before = ravan(capsys, "eval", artifact, "--data", test, "--json").document
    trained = ravan(
        capsys, "train", artifact, "--data", train, "--out", heads, "--local-steps", 60,
        "--lr", 0.02, "--micro-batch", 4, "--json",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    call = ravan(capsys, "eval", artifact, "--heads", heads, "--data", test, "--json")
    after = call.document
    assert after["loss"] < 0.8 * before["loss"]
    assert after["accuracy"] > before["accuracy"]
    assert after["perplexity"] == pytest.approx(math.exp(after["loss"]), rel=1e-6)
    assert after["count"] == before["count"] > 60, "tokens are counted, not rows"


@pytest.mark.slow
def test_a_simulation_is_the_same_with_one_worker_and_two(
    artifact: Path, tmp_path: Path, capsys: Capture
) -> None:
    train, test = write(tmp_path / "a.jsonl", 80, 1), write(tmp_path / "b.jsonl", 20, 2)
    found: list[dict[str, Any]] = []
    for workers in (1, 2):
        out = tmp_path / f"run{workers}"
        call = ravan(
            capsys, "simulate", artifact, "--train", train, "--test", test, "--out", out,
            "--partition", "column:user", "--rounds", 2, "--local-steps", 6, "--batch-size", 8,
            "--max-length", 32, "--lr", 0.02, "--workers", workers, "--json",
        )  # fmt: skip
        assert call.code == 0, call.err
        assert call.document["final"]["loss"] < call.document["initial"]["loss"]
        found.append(comparable(out))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("content", "name", "options", "code", "said"),
    [
        ("source,target\na,\n", "a.csv", (), 4, "line 2"),
        ("source,target\n,b\n", "a.csv", (), 4, "line 2"),
        ("source\na\n", "a.csv", (), 4, "no label column: none is called answer"),
        ("first,target\na,b\n", "a.csv", (), 4, "no text column"),
        ("source,summary,target\na,b,c\n", "a.csv", (), 4, "several columns"),
        ("source,target\na,b\n", "a.csv", ("--label-column", "french"), 4, "'french'"),
        ("source,target\na,b\n", "a.csv", ("--label-column", "source", "--text-column", "source"),
         2, "both name"),
        ("source,target\na,b\n", "a.csv", ("--max-length", "1"), 2, "--max-length"),
        ("a line\n", "a.txt", (), 4, "unsupported suffix '.txt'"),
        ('{"source": "a", "target": ["b"]}', "a.jsonl", (), 4, "line 1"),
    ],
)  # fmt: skip
def test_bad_data(
    content: str,
    name: str,
    options: tuple[str, ...],
    code: int,
    said: str,
    artifact: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    path = tmp_path / name
    path.write_text(content)
    out = tmp_path / "heads.safetensors"
    call = ravan(capsys, "train", artifact, "--data", path, "--out", out, *options)
    assert call.code == code, call.err
    assert said in call.err
    assert "Traceback" not in call.err
    assert not out.exists()


def test_there_is_nothing_to_predict(artifact: Path, capsys: Capture) -> None:
    call = ravan(capsys, "predict", artifact, "a text")
    assert call.code == 2
    assert "ravan merge --to hf" in call.err
    call = ravan(capsys, "eval", artifact, "--data", "nowhere.csv")
    assert (call.code, "no such file" in call.err) == (4, True)
