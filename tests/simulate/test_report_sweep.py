"""The page of a sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ravan_edge.errors import StorageError, UsageError
from ravan_edge.simulate import sweep
from ravan_edge.simulate.report import write_sweep_report
from tests.simulate.conftest import RequestFor
from tests.simulate.page_checks import checked


def sweep_document(rates: dict[float, float | None], heads: list[float | None]) -> dict[str, Any]:
    rows = []
    for head in heads:
        for lr, accuracy in rates.items():
            failed = "the run diverged" if accuracy is None else None
            runs = [
                {"seed": seed, "folder": f"lr-{lr:g}_seed-{seed}", "accuracy": accuracy,
                 "validation_accuracy": accuracy and accuracy + 0.01 * seed, "failed": failed}
                for seed in (0, 1)
            ]  # fmt: skip
            rows.append({
                "lr": lr, "task_head_lr": head, "validation_accuracy": accuracy,
                "validation_accuracy_deviation": accuracy and 0.01, "accuracy": accuracy,
                "accuracy_deviation": accuracy and 0.02, "failed": 2 * (failed is not None),
                "runs": runs,
            })  # fmt: skip
    best = max((row for row in rows if row["accuracy"]), key=lambda row: row["accuracy"])
    return {"rows": rows, "best": best, "seeds": [0, 1], "command": "ravan simulate <art> --lr 1"}


@pytest.mark.parametrize("heads", [[None], [None, 0.01, 0.1], [0.1 * n for n in range(1, 9)]])
def test_a_sweep_has_a_page(tmp_path: Path, heads: list[float | None]) -> None:
    document = sweep_document({1e-4: 0.4, 1e-3: 0.8, 1e-2: 0.6, 1.0: None}, heads)
    (tmp_path / "sweep.json").write_text(json.dumps(document), "utf-8")
    text = write_sweep_report(tmp_path).read_text("utf-8")
    page = checked(text)
    said = page.text.replace("\N{NO-BREAK SPACE}", " ")
    for words in (
        "Learning rate 0.001",
        "80.0 % ± 1.0",
        "2 diverged",
        "the run diverged",
        "chosen",
        "ravan simulate <art> --lr 1",
        "lr-0.01_seed-1",
    ):
        assert words in said, words
    assert write_sweep_report(tmp_path).read_text("utf-8") == text


def test_one_rate_and_one_seed_are_enough(request_for: RequestFor) -> None:
    request = request_for("sweep", rounds=2)
    found = sweep(request, [0.01], workers=1)
    page = checked(write_sweep_report(request.out).read_text("utf-8"))
    assert found["command"] in page.text


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ravan sweep"):
        write_sweep_report(tmp_path)


def test_a_damaged_sweep_is_named(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"rows": [{"lr": -1}]}', "utf-8")
    with pytest.raises(StorageError, match=r"sweep\.json"):
        write_sweep_report(tmp_path)
