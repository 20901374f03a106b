"""Every state in which a kill or a loss of power can leave the server's folder, from recorded runs.

Each is opened as a restarted server would open it: what was promised is there, nothing counts twice,
and every version is bit by bit what its recorded updates make.
"""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from ravan_edge.artifact import Artifact
from ravan_edge.merge import FULL_FACTOR, staleness_factor
from ravan_server.serving import DATABASE_NAME
from ravan_server.store import SqliteStore, TaskState
from tests.faults.conftest import RecordingOf, recorder_library, recording_of
from tests.faults.crash_states import CrashState, crash_states
from tests.faults.recorder import Fault, Recording
from tests.server.crash_checks import check_state, go_on
from tests.server.crash_program import RUNS, VERSIONS
from tests.tiny_artifact import make_tiny_artifact

__all__ = ["recorder_library", "recording_of"]

EACH = pytest.mark.parametrize("kind", list(RUNS))
# In the quick tests one kind of run stands for the others; the slow ones have all.
ONE = pytest.mark.parametrize("kind", ["sync"])
# Every so-manieth state in `make test-full`; `make soak` has all of them.
EVERY = {"sync": 2, "async": 4, "robust": 6}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("crash") / "artifact")


def run(artifact: Artifact, recording: Recording, kind: str, fault: Fault | None = None) -> int:
    environment = recording.env() if fault is None else recording.env(fault)
    command = [sys.executable, "-m", "tests.server.crash_program", str(artifact.folder)]
    marks = environment["RECORDER_MARKS"]
    state = str(recording.folder)
    return subprocess.run(
        [*command, state, marks, str(VERSIONS[kind]), kind], env=environment, check=False
    ).returncode


def check_all(artifact: Artifact, states: list[CrashState], folder: Path, kind: str) -> None:
    for state in states:
        state.write_to(folder)
        try:
            check_state(artifact, folder, state.marks, kind)
            if state.at % 10 == 0:
                go_on(artifact, folder, VERSIONS[kind] + 1, kind)
        except BaseException as error:
            error.add_note(state.label)
            raise


@pytest.mark.parametrize("kind", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_after_any_crash_every_promise_is_kept(
    artifact: Artifact, recording_of: RecordingOf, tmp_path: Path, kind: str
) -> None:
    recording = recording_of(tmp_path / "state")
    assert run(artifact, recording, kind) == 0
    states = list(crash_states(recording.trace()))
    assert len(states) > 1000
    assert len({state.marks for state in states}) > 2 * 3 * VERSIONS[kind], (
        "marks lie between operations"
    )
    some = states[::100]  # more of them in the tests below
    check_all(artifact, some, tmp_path / "crashed", kind)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
@EACH
def test_after_many_crashes_every_promise_is_kept(
    artifact: Artifact, recording_of: RecordingOf, tmp_path: Path, part: int, kind: str
) -> None:
    recording = recording_of(tmp_path / "state")
    assert run(artifact, recording, kind) == 0
    states = list(crash_states(recording.trace()))[part :: 4 * EVERY[kind]]
    check_all(artifact, states, tmp_path / "crashed", kind)


@pytest.mark.soak
@EACH
def test_after_all_crashes_every_promise_is_kept(
    artifact: Artifact, recording_of: RecordingOf, tmp_path: Path, kind: str
) -> None:
    recording = recording_of(tmp_path / "state")
    assert run(artifact, recording, kind) == 0
    check_all(artifact, list(crash_states(recording.trace())), tmp_path / "crashed", kind)


@pytest.mark.parametrize(
    "kind", ["sync", *(pytest.param(each, marks=pytest.mark.slow) for each in ("async", "robust"))]
)
def test_a_crash_in_recovery_is_like_any_other(
    artifact: Artifact, recording_of: RecordingOf, tmp_path: Path, kind: str
) -> None:
    """The run is killed in its middle; the states of the second process, from its first write on."""
    first = recording_of(tmp_path / "state")
    assert run(artifact, first, kind, Fault(at=90)) != 0
    promised = first.trace().marks
    second = recording_of(tmp_path / "state")
    assert run(artifact, second, kind) == 0
    states = list(crash_states(second.trace()))
    for state in states[:60:6]:
        state.write_to(tmp_path / "crashed")
        check_state(artifact, tmp_path / "crashed", [*promised, *state.marks], kind)


def faults(step: int, last: int) -> list[Fault]:
    found = []
    for index, at in enumerate(range(0, last, step)):
        error = (errno.ENOSPC, errno.EIO)[index % 2]
        found.append(Fault(at=at, error=error, half=index % 3 == 0, lasting=index % 4 == 3))
    return found


@pytest.mark.parametrize("fault", faults(110, 360), ids=str)
@ONE
def test_a_disk_that_fails_loses_nothing(
    artifact: Artifact, recording_of: RecordingOf, tmp_path: Path, fault: Fault, kind: str
) -> None:
    check_fault(artifact, recording_of, tmp_path, fault, kind)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fault"),
    [(kind, fault) for kind, every in EVERY.items() for fault in faults(13 * every, 360)],
    ids=str,
)
def test_a_disk_that_fails_anywhere_loses_nothing(
    artifact: Artifact, recording_of: RecordingOf, tmp_path: Path, fault: Fault, kind: str
) -> None:
    check_fault(artifact, recording_of, tmp_path, fault, kind)


def check_fault(
    artifact: Artifact, recording_of: RecordingOf, tmp_path: Path, fault: Fault, kind: str
) -> None:
    """With a disk that fails for ever the program may end; then another one goes on without faults."""
    recording = recording_of(tmp_path / "state")
    run(artifact, recording, kind, fault)
    promised = list(recording.trace().marks)
    check_state(artifact, recording.folder, promised, kind)
    again = recording_of(tmp_path / "state")
    assert run(artifact, again, kind) == 0
    marks = [*promised, *again.trace().marks]
    assert check_state(artifact, recording.folder, marks, kind) >= VERSIONS[kind]


def test_the_recorded_run_has_what_it_is_recorded_for(
    artifact: Artifact, recording_of: RecordingOf, tmp_path: Path
) -> None:
    """A merged update that was stale, and a task that its deadline ended."""
    recording = recording_of(tmp_path / "state")
    assert run(artifact, recording, "async") == 0
    store = SqliteStore(recording.folder / DATABASE_NAME)
    with store.reading() as transaction:
        last = transaction.attempt().id
        rows = [row for at in range(1, last + 1) for row in transaction.tasks(at)]
    store.close()
    merged = [row.update for row in rows if row.state is TaskState.MERGED]
    assert {FULL_FACTOR, staleness_factor(1)} <= {each.factor for each in merged if each}
    assert TaskState.LATE in {row.state for row in rows}
