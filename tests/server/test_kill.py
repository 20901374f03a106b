"""A server process killed with SIGKILL, again and again, loses nothing and counts nothing twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ravan_edge.artifact import Artifact
from tests.server.crash_checks import check_state, go_on
from tests.tiny_artifact import make_tiny_artifact

VERSIONS = 3
EACH = pytest.mark.parametrize("kind", ["sync", "async"])


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("kill") / "artifact")


def program(artifact: Artifact, state: Path, marks: Path, kind: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.server.crash_program", str(artifact.folder)]
    return subprocess.Popen([*command, str(state), str(marks), str(VERSIONS), kind])


def lines(marks: Path) -> list[str]:
    return marks.read_text().splitlines() if marks.exists() else []


@EACH
def test_without_a_kill_it_ends(artifact: Artifact, tmp_path: Path, kind: str) -> None:
    state, marks = tmp_path / "state", tmp_path / "marks"
    assert program(artifact, state, marks, kind).wait() == 0
    assert check_state(artifact, state, lines(marks), kind) >= VERSIONS


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        ("sync", 0),
        *(pytest.param("sync", n, marks=pytest.mark.slow) for n in (1, 2)),
        *(pytest.param("async", n, marks=pytest.mark.slow) for n in (0, 1, 2)),
    ],
)
def test_killed_at_any_moment(artifact: Artifact, tmp_path: Path, seed: int, kind: str) -> None:
    """Each process is killed a moment after something it said, often while it writes."""
    moments = random.Random(seed)
    state, marks = tmp_path / "state", tmp_path / "marks"
    for _ in range(50):
        said = len(lines(marks))
        process = program(artifact, state, marks, kind)
        patience = time.monotonic() + 60
        wanted = said + moments.randint(1, 6)
        while process.poll() is None and len(lines(marks)) < wanted:
            assert time.monotonic() < patience, "the server does nothing"
            time.sleep(0.0005)
        time.sleep(moments.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        check_state(artifact, state, lines(marks), kind)
    else:
        pytest.fail("50 processes did not reach the end")
    assert check_state(artifact, state, lines(marks), kind) >= VERSIONS
    assert go_on(artifact, state, VERSIONS + 1, kind)
