"""Commands on a device's folder: who may draw an id, and who only looks."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravan_edge.errors import UsageError
from ravan_edge.folder_lock import FolderLock
from tests.cli.calls import ravan


def test_only_who_has_the_lock_draws_an_id(
    tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "device"
    state.mkdir()
    with FolderLock(state):
        words = ("device", "--server", "http://127.0.0.1:1", "--data", rows, "--state", state)
        assert ravan(capsys, *words).code == UsageError.exit_code
    assert not (state / "device.json").exists()


def test_a_look_at_a_folder_makes_no_device_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    found = ravan(capsys, "device", "show-last-update", "--state", tmp_path / "other")
    assert "nothing has left" in found.out
    assert list((tmp_path / "other").iterdir()) == []


def test_the_folder_of_a_server_is_refused(
    tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "served"
    state.mkdir()
    (state / "state.sqlite").touch()
    words = ("device", "--server", "http://127.0.0.1:1", "--data", rows, "--state", state)
    found = ravan(capsys, *words)
    assert found.code == UsageError.exit_code
    assert "this is the folder of a server: state.sqlite is in it" in found.err
    assert [path.name for path in state.iterdir()] == ["state.sqlite"]
