"""The example of docs/training.md runs as it stands there."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from ravan_edge.artifact import open_artifact, read_heads
from tests.tiny_artifact import LAYER, make_tiny_artifact, tiny_rows


def test_the_example_trains_and_saves(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (root / "docs" / "training.md").read_text("utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    make_tiny_artifact(tmp_path / "artifact")
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *tiny_rows(40)])
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/training.md", "exec"), {})
    heads = read_heads(tmp_path / "heads.safetensors", open_artifact(tmp_path / "artifact"))
    assert heads[f"{LAYER}.H"].any()
