"""Runtimes that cannot live in the host's environment are named in a plan's ``*_worker.py`` only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_structure import EDGE, imported, modules_of

APART = ("executorch", "torch", "onnxruntime.training")


@pytest.mark.parametrize("path", modules_of(EDGE), ids=lambda path: str(path.relative_to(EDGE)))
def test_a_runtime_with_a_process_of_its_own_is_imported_there_only(path: Path) -> None:
    found = {name for name in imported(path) if name.startswith(APART)}
    assert not found or path.name.endswith("_worker.py")
