"""A tiny artifact and labelled data for all tests of the command line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.tiny_artifact import Method, make_tiny_artifact, tiny_rows


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[Method, Path]:
    """The folders of tiny artifacts, by method; do not write to them."""
    folder = tmp_path_factory.mktemp("tiny")
    names: list[Method] = ["ravan", "fedit", "head-only"]
    return {name: make_tiny_artifact(folder / name, method=name).folder for name in names}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv with 120 rows that can be learned."""
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(tiny_rows(120))
    return path
