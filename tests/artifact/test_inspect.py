"""``ravan inspect`` on a terminal and for machines."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from ravan_edge.artifact.summary import PlanSummary, describe
from ravan_edge.cli.inspect import inspect, show, summary_document
from ravan_edge.errors import ArtifactNotFoundError
from ravan_edge.plans import PLANS
from tests.tiny_artifact import make_tiny_artifact

app = typer.Typer()
app.command()(inspect)


def test_json_is_one_document(tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "tiny")
    result = CliRunner().invoke(app, [str(artifact.folder), "--json"], catch_exceptions=False)
    document = json.loads(result.stdout)
    assert document["digest"] == artifact.digest
    assert document["download_once"]["whole"] > document["download_per_round"]
    assert [upload["heads"] for upload in document["uploads"]] == [1, 2, 3, 4]
    assert document["conformance"][0]["batch"] == [6, 9]
    assert document["plans"]["whole"]["runtime"] == "onnxruntime"
    assert document["plans"]["whole"]["cannot"] == []


def test_what_a_plan_cannot_do_is_shown(tmp_path: Path) -> None:
    summary = describe(make_tiny_artifact(tmp_path / "tiny"))
    limited = PlanSummary({"batch": 8, "length": 64}, 1_000_000, 2e-6)
    both = replace(summary, plans={**summary.plans, "executorch": limited, "later": limited})
    console = Console(file=io.StringIO(), width=600, color_system=None)
    show(both, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "takes at most batch 8, length 64" in shown
    assert all(sentence in " ".join(shown.split()) for sentence in PLANS["executorch"].cannot)
    assert "not known to this version" in shown
    assert "executorch" in summary_document(both)["plans"]  # type: ignore[operator]


@pytest.mark.parametrize("method", ["ravan", "fedit", "head-only"])
def test_a_person_sees_what_matters(tmp_path: Path, method: str) -> None:
    artifact = make_tiny_artifact(tmp_path / "tiny", method=method)  # type: ignore[arg-type]
    result = CliRunner().invoke(app, [str(artifact.folder)], catch_exceptions=False)
    for words in ("tiny", "Apache-2.0", "label0", method, "download once", "upload", "Conformance"):
        assert words in result.stdout


def test_texts_of_a_manifest_do_not_drive_the_terminal(tmp_path: Path) -> None:
    summary = describe(make_tiny_artifact(tmp_path / "tiny"))
    evil = replace(summary, model="\x1b[2J[red]x", labels=("\x07", "b"), notices=("a\rb",))
    output = io.StringIO()
    show(evil, Console(file=output, width=120))
    text = output.getvalue()
    assert not set("\x1b\x07\r") & set(text)
    assert "[red]x" in text


def test_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError):
        CliRunner().invoke(app, [str(tmp_path / "nowhere")], catch_exceptions=False)
