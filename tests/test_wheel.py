"""The built wheel in an environment without torch: what a device installs, and one local round there."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_artifact import make_tiny_artifact, tiny_rows

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent

Run = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel and the extra `onnxruntime`."""
    folder = tmp_path_factory.mktemp("device") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    interpreter = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    command = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["-c", str(ROOT / "constraints.txt"), f"{wheel}[onnxruntime]"]
    subprocess.run(command, check=True)
    return interpreter


@pytest.fixture(scope="module")
def ravan(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Runs the installed command, away from the checkout."""
    cwd = tmp_path_factory.mktemp("elsewhere")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV"))}

    def run(*arguments: str | Path) -> Run:
        command = [str(python.with_name("ravan")), *map(str, arguments)]
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact") / "tiny"
    make_tiny_artifact(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *tiny_rows(240)])
    return path


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "ravan_edge",
        "ravan_export",
        "ravan_server",
        "ravan_edge-0.1.0.dist-info",
    }
    assert {f"{name}/py.typed" for name in ("ravan_edge", "ravan_export", "ravan_server")} <= set(
        names
    )
    page = {name.rpartition("/")[2] for name in names if "/dashboard/page/" in name}
    files = ROOT / "server" / "ravan_server" / "dashboard" / "page"
    assert page == {path.name for path in files.iterdir()}
    licences = {name.rpartition("/")[2] for name in names if "/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}


def test_a_device_gets_no_training_framework(python: Path) -> None:
    listing = subprocess.run(
        [str(python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        check=True,
        capture_output=True,
        text=True,
    )
    installed = {package["name"].lower() for package in json.loads(listing.stdout)}
    assert {"ravan-edge", "onnxruntime", "numpy", "tokenizers"} <= installed
    assert not installed & {"torch", "transformers", "optimum", "onnx", "matplotlib", "pyarrow"}
    assert not {name for name in installed if name.startswith("nvidia")}


def test_it_trains_one_round_and_the_heads_are_better(
    ravan: Callable[..., Run], artifact: Path, rows: Path, tmp_path: Path
) -> None:
    heads = tmp_path / "heads.safetensors"
    trained = ravan("train", artifact, "--data", rows, "--out", heads, "--lr", "1e-2", "--json")
    assert trained.returncode == 0, trained.stderr
    json.loads(trained.stdout)
    assert heads.is_file()

    scores = []
    for options in ([], ["--heads", heads]):
        scored = ravan("eval", artifact, *options, "--data", rows, "--json")
        assert scored.returncode == 0, scored.stderr
        scores.append(json.loads(scored.stdout))
    before, after = scores
    assert before["count"] == after["count"] == 240
    assert after["loss"] < before["loss"]
    assert after["accuracy"] > before["accuracy"]


def test_verify_repeats_the_stored_check(ravan: Callable[..., Run], artifact: Path) -> None:
    verified = ravan("verify", artifact, "--json")
    assert verified.returncode == 0, verified.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["export", "no-model", "--task", "text-classification", "--labels", "2"], "export"),
        (["demo", "--data", str(ROOT / "data" / "banking77")], "demo"),
    ],
)
def test_a_command_whose_extra_is_missing_says_how_to_install_it(
    ravan: Callable[..., Run], tmp_path: Path, arguments: list[str], extra: str
) -> None:
    refused = ravan(*arguments, "--out", tmp_path / "out")
    assert refused.returncode == 8, refused.stderr
    assert f"pip install 'ravan-edge[{extra}]'" in refused.stderr
    assert not list(tmp_path.iterdir())


def test_parquet_without_its_extra_says_how_to_install_it(
    ravan: Callable[..., Run], artifact: Path
) -> None:
    data = ROOT / "data" / "banking77" / "test.parquet"
    refused = ravan("eval", artifact, "--data", data)
    assert refused.returncode == 8, refused.stderr
    assert "pip install 'ravan-edge[parquet]'" in refused.stderr
