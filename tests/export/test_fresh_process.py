"""The check of an artifact in a process without torch, where that process does not do its part."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ravan_edge.errors import ArtifactError
from ravan_export import verify


def test_a_check_that_does_not_come_back_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_CHILD", "import time; time.sleep(60)")
    monkeypatch.setattr(verify, "_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(ArtifactError, match=r"check of plan 'whole'.* more than 0\.3 s") as caught:
        verify._run_child(tmp_path, 1, "whole")
    assert time.monotonic() - began < 30
    assert caught.value.where == str(tmp_path)
    assert "less busy" in str(caught.value)


def test_a_check_that_breaks_down_says_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_CHILD", "raise SystemExit('no such thing')")
    with pytest.raises(ArtifactError, match="fresh process failed: no such thing"):
        verify._run_child(tmp_path, 1, "whole")
