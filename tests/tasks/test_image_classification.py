"""A small ViT from its folder to a trained model, by the commands a person types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.calls import ravan
from tests.export.vit_models import COLOURS, draw_patches, save_vit
from tests.simulate.page_checks import checked
from tests.simulate.same_run import comparable

OPTIONS = (
    "--devices", 4, "--per-round", 2, "--rounds", 2, "--local-steps", 4, "--batch-size", 8,
    "--lr", "5e-3", "--partition", "dirichlet:0.5",
)  # fmt: skip


@pytest.fixture(scope="module")
def images(build_once: Any) -> Path:
    """train and test, with a sub-folder for each colour."""

    def build(path: Path) -> None:
        draw_patches(path / "train", 12)
        draw_patches(path / "test", 5, seed=1)

    return Path(build_once("colour-patches", build))


@pytest.fixture(scope="module")
def artifact(build_once: Any, images: Path) -> Path:
    """A ViT without a classifier, exported for the classes of the folder."""
    from ravan_export.export import export_artifact

    def build(path: Path) -> None:
        model = path.with_name("vit-for-patches")
        save_vit("vit-bare", model)
        export_artifact(model, "image-classification", images / "train", path, lora_budget=2)

    return Path(build_once("artifact-of-patches", build))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVAN_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "image-cache"))


def test_it_is_inspected_and_verified(artifact: Path, capsys: Any) -> None:
    shown = ravan(capsys, "inspect", artifact, "--json").document
    assert shown["task"] == "image-classification"
    assert shown["labels"] == sorted(COLOURS)
    assert ravan(capsys, "verify", artifact).code == 0


def test_it_learns_and_predicts(artifact: Path, images: Path, capsys: Any, tmp_path: Path) -> None:
    heads = tmp_path / "heads.safetensors"
    trained = ravan(
        capsys, "train", artifact, "--data", images / "train", "--out", heads, "--epochs", 8,
        "--lr", "5e-3", "--batch-size", 8, "--json",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert trained.document["loss"]["last"] < 0.8 * trained.document["loss"]["first"]
    scored = ravan(
        capsys, "eval", artifact, "--data", images / "test", "--heads", heads, "--json"
    ).document
    assert scored["accuracy"] > 0.6
    assert {entry["label"] for entry in scored["classes"]} == set(COLOURS)
    paths = [images / "test" / colour / "000.png" for colour in ("red", "blue")]
    found = ravan(capsys, "predict", artifact, "--heads", heads, *paths, "--json").document
    assert [item["text"] for item in found["predictions"]] == [str(path) for path in paths]
    assert all(len(item["labels"]) == 3 for item in found["predictions"])


@pytest.mark.slow
def test_a_simulation_is_the_same_with_any_number_of_workers(
    artifact: Path, images: Path, capsys: Any, tmp_path: Path
) -> None:
    for workers in (1, 2):
        words = ("--train", images / "train", "--test", images / "test", *OPTIONS)
        done = ravan(
            capsys, "simulate", artifact, *words, "--out", tmp_path / str(workers),
            "--workers", workers,
        )  # fmt: skip
        assert done.code == 0, done.err
        assert "photo.png" in done.out
    assert comparable(tmp_path / "1") == comparable(tmp_path / "2")
    page = checked((tmp_path / "1" / "report.html").read_text("utf-8"))
    assert all(colour in page.text for colour in COLOURS)


def test_users_of_a_parquet_file_are_devices(
    artifact: Path, images: Path, capsys: Any, tmp_path: Path
) -> None:
    paths = sorted((images / "train").glob("*/*.png"))
    table = {
        "image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
        "label": [path.parent.name for path in paths],
        "owner": [f"person {int(path.stem) % 3}" for path in paths],
    }
    pq.write_table(pa.table(table), tmp_path / "train.parquet")
    done = ravan(
        capsys, "simulate", artifact, "--train", tmp_path / "train.parquet", "--out",
        tmp_path / "run", "--partition", "column:owner", "--per-round", 2, "--rounds", 1,
        "--local-steps", 2, "--workers", 1,
    )  # fmt: skip
    assert done.code == 0, done.err
    dealt = json.loads((tmp_path / "run" / "partition.json").read_text("utf-8"))
    assert len(dealt["rows"]) == 3


def test_a_sweep_chooses_a_rate(artifact: Path, images: Path, capsys: Any, tmp_path: Path) -> None:
    found = ravan(
        capsys, "sweep", artifact, "--train", images / "train", "--out", tmp_path / "sweep",
        "--lr", "1e-4,5e-3", "--devices", 2, "--per-round", 1, "--rounds", 1, "--local-steps", 2,
        "--workers", 1, "--json",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert found.document["best"]["lr"] in {1e-4, 5e-3}


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (("predict", "ART", "DIR/train/red/none.png"), 4, "no such file"),
        (("predict", "ART", "DIR/train"), 4, "is a directory"),
        (("eval", "ART", "--data", "DIR/nowhere"), 4, "no such file or folder"),
        (("eval", "ART", "--data", "DIR"), 4, "a folder inside a class's folder"),
        (("eval", "ART", "--data", "DIR/test", "--label-column", "x"), 2, "no columns"),
        (("eval", "ART", "--data", "DIR/test", "--skip-empty"), 2, "--skip-empty"),
        (
            ("simulate", "ART", "--train", "DIR/train", "--partition", "column:user"),
            2,
            "no columns",
        ),
        (("simulate", "ART", "--train", "DIR/nowhere"), 4, "no such file"),
    ],
)
def test_mistakes_end_with_their_code(
    command: tuple[str, ...], code: int, words: str, artifact: Path, images: Path, capsys: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    typed = [word.replace("ART", str(artifact)).replace("DIR", str(images)) for word in command]
    if command[0] == "simulate":
        typed += ["--out", str(tmp_path / "run")]
    found = ravan(capsys, *typed)
    assert found.code == code
    assert words in found.err
    assert "Traceback" not in found.err
