"""The recorder, compiled once for all test processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import BuildOnce
from tests.faults.recorder import Recording, build_library

RecordingOf = Callable[[Path], Recording]


@pytest.fixture(scope="session")
def recorder_library(build_once: BuildOnce) -> Path:
    return build_once("recorder", build_library)


@pytest.fixture
def recording_of(recorder_library: Path, tmp_path_factory: pytest.TempPathFactory) -> RecordingOf:
    """``recording_of(folder)``: a new recording, its trace in a folder of its own."""

    def recording_of(folder: Path) -> Recording:
        folder.mkdir(parents=True, exist_ok=True)
        return Recording(recorder_library, folder, tmp_path_factory.mktemp("trace"))

    return recording_of
