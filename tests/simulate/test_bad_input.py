"""Bad input: what it says, and that nothing is left behind or lost."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from ravan_edge.errors import ArtifactError, DataError, RavanError, UsageError
from ravan_edge.folder_lock import FolderLock
from ravan_edge.simulate import simulate
from tests.simulate.conftest import RequestFor, Tiny, write_csv
from tests.simulate.same_run import comparable


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"per_round": 9}, ["--per-round", "only 8 of 8 have data"]),
        ({"devices": 400, "per_round": 300}, ["--per-round", "only 216 of 400"]),
        ({"max_length": 65}, ["--max-length", "at most 64"]),
        ({"plan": "block"}, ["--plan", "whole"]),
        ({"head_budgets": "1:0.5,5:0.5"}, ["--head-budgets", "5 heads, but a layer has 4"]),
        ({"method": "fedit", "head_budgets": "1:1"}, ["--head-budgets", "no heads"]),
        ({"method": "head-only", "head_budgets": "1:1"}, ["--head-budgets", "no heads"]),
        ({"deadline_seconds": 1e-6}, ["--deadline-seconds", "fastest needs about"]),
        ({"partition": "column:user", "devices": 50}, ["--devices", "only has|has only"]),
    ],
)
def test_settings_that_do_not_fit(
    request_for: RequestFor, settings: dict[str, Any], words: list[str]
) -> None:
    request = request_for(**settings)
    with pytest.raises(UsageError) as caught:
        simulate(request, workers=1)
    for word in words:
        assert any(choice in str(caught.value) for choice in word.split("|")), str(caught.value)
    assert not request.out.exists(), "refused settings leave no folder behind"


@pytest.mark.parametrize("workers", [0, -1, 5000])
def test_workers_out_of_range(request_for: RequestFor, workers: int) -> None:
    with pytest.raises(UsageError, match="--workers"):
        simulate(request_for(), workers=workers)


def test_refused_data_leave_no_folder_behind(
    request_for: RequestFor, tiny: Tiny, tmp_path: Path
) -> None:
    unknown = tmp_path / "unknown.csv"
    write_csv(unknown, [("w1 w2", "label0"), ("w1", "label99")])
    empty = tmp_path / "empty.csv"
    empty.write_bytes(b"")
    for bad in (unknown, empty, tmp_path / "missing.csv", tmp_path):
        for request in (request_for(train=bad), request_for(test=bad)):
            with pytest.raises(DataError, match=bad.name):
                simulate(request, workers=1)
            assert not request.out.exists()
    with pytest.raises(DataError, match="sender"):
        simulate(request_for(partition="column:sender"), workers=1)
    assert simulate(request_for(train=tiny.train), workers=1)["rounds"] == 3


def test_a_damaged_artifact_is_refused_before_any_work(
    request_for: RequestFor, tiny: Tiny, tmp_path: Path
) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(tiny.artifact(), folder)
    content = bytearray((folder / "base.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "base.safetensors").write_bytes(content)
    request = dataclasses.replace(request_for(), artifact=folder)
    with pytest.raises(ArtifactError, match=r"base\.safetensors.*sha256"):
        simulate(request, workers=1)


def test_another_configuration_is_refused_and_the_first_run_stays(request_for: RequestFor) -> None:
    first = request_for()
    simulate(first, workers=1)
    before = comparable(first.out)
    for changes, words in (
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"local": {"lr": 0.5}}, "lr is 0.01 there and 0.5 here"),
        ({"rounds": 4}, "rounds is 3 there and 4 here"),
        ({"method": "fedit"}, "digest is"),
        ({"test": None}, "test is"),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            simulate(request_for(**changes), workers=1)
        assert "--out" in str(caught.value)
    assert comparable(first.out) == before


def test_a_moved_data_file_is_the_same_data(
    request_for: RequestFor, tiny: Tiny, tmp_path: Path
) -> None:
    first = request_for()
    summary = simulate(first, workers=1)
    moved = tmp_path / "moved.csv"
    shutil.copy(tiny.train, moved)
    assert simulate(request_for(train=moved), workers=1) == summary
    with moved.open("a") as file:
        file.write("w1 w2,label1,user1\n")
    with pytest.raises(UsageError, match="train is"):
        simulate(request_for(train=moved), workers=1)


def test_a_folder_with_something_else_is_not_touched(request_for: RequestFor) -> None:
    request = request_for()
    request.out.mkdir()
    (request.out / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        simulate(request, workers=1)
    assert [path.name for path in request.out.iterdir()] == ["thesis.tex"]
    shutil.rmtree(request.out)
    request.out.write_text("a file")
    with pytest.raises(RavanError):
        simulate(request, workers=1)
    assert request.out.read_text() == "a file"


def test_a_second_process_on_a_run_folder_is_refused(request_for: RequestFor) -> None:
    request = request_for()
    request.out.mkdir()
    with (
        FolderLock(request.out),
        pytest.raises(UsageError, match="another process is working on this run folder"),
    ):
        simulate(request, workers=1)
    assert simulate(request, workers=1)["rounds"] == 3
