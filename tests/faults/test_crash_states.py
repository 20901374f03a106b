from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.conftest import RecordingOf
from tests.faults.crash_states import CrashState, crash_states, kill_states, power_loss_states
from tests.faults.recorder import (
    Create,
    Existing,
    Failed,
    MakeFolder,
    Mark,
    Operation,
    Rename,
    Sync,
    SyncBegin,
    Trace,
    Unlink,
    Write,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="the recorder is loaded with LD_PRELOAD")

# ---- the model, on traces made by hand


def synced(trace: list[Operation], file: int, path: str) -> None:
    trace.append(SyncBegin(file, path, len(trace)))
    trace.append(Sync(file, path, len(trace) - 1))


def left(
    operations: Sequence[Operation], before: tuple[Existing, ...] = ()
) -> list[dict[str, bytes]]:
    """What a loss of power at the end can leave."""
    states = power_loss_states(Trace(before, (*operations, Mark("end"))))
    return [state.contents() for state in states if state.marks]


OLD = (Existing(1, "a", b"old"),)


def test_a_write_without_fsync_may_be_lost_kept_torn_or_zeros() -> None:
    assert left([Write(1, "a", 3, b"1234")], OLD) == [
        {"a": b"old"},
        {"a": b"old1234"},
        {"a": b"old12"},
        {"a": b"old\0\x0034"},
        {"a": b"old\0\0\0\0"},
    ]


def test_an_fsync_makes_it_certain() -> None:
    operations: list[Operation] = [Write(1, "a", 3, b"1234")]
    synced(operations, 1, "a")
    assert left(operations, OLD) == [{"a": b"old1234"}]


def test_an_fsync_that_has_not_returned_makes_nothing_certain() -> None:
    assert {"a": b"old"} in left([Write(1, "a", 3, b"1"), SyncBegin(1, "a", 0)], OLD)


def test_what_is_written_while_an_fsync_runs_is_not_covered_by_it() -> None:
    begin, end = SyncBegin(1, "a", 0), Sync(1, "a", 1)
    found = left([Write(1, "a", 3, b"1"), begin, Write(1, "a", 4, b"2"), end], OLD)
    assert found == [{"a": b"old1"}, {"a": b"old12"}, {"a": b"old1\0"}]


def test_an_fsync_that_failed_is_not_made_good_by_the_next() -> None:
    operations: list[Operation] = [Write(1, "a", 3, b"1"), Failed("B", 1, "a", 5)]
    operations.append(Write(1, "a", 4, b"2"))
    synced(operations, 1, "a")
    assert left(operations, OLD) == [{"a": b"old\x002"}, {"a": b"old12"}]


def test_writes_may_reach_the_disk_out_of_order() -> None:
    found = left([Write(1, "a", 0, b"O"), Write(1, "a", 2, b"D")], OLD)
    assert {"a": b"olD"} in found
    assert {"a": b"Old"} in found


def test_one_file_may_be_lost_and_another_kept() -> None:
    found = left([Write(1, "a", 0, b"A"), Write(2, "b", 0, b"B")], (*OLD, Existing(2, "b", b"b")))
    assert found == [
        {"a": b"old", "b": b"b"},
        {"a": b"Ald", "b": b"B"},
        {"a": b"Ald", "b": b"b"},
        {"a": b"old", "b": b"B"},
    ]


def test_a_rename_without_fsync_of_the_folder_may_be_lost_and_may_come_before_the_content() -> None:
    operations: list[Operation] = [Create(2, "t"), Write(2, "t", 0, b"new"), Rename("t", "a")]
    found = left(operations, OLD)
    assert {"a": b"old"} in found
    assert {"a": b""} in found
    assert {"a": b"new"} in found
    assert {"a": b"old", "t": b"new"} in found
    assert not [state for state in found if "a" not in state], "a rename is atomic"
    synced(operations, 2, "t")
    synced(operations, 9, "")
    assert left(operations, OLD) == [{"a": b"new"}]


def test_an_fsync_of_a_file_does_not_keep_its_name() -> None:
    operations: list[Operation] = [Create(2, "b"), Write(2, "b", 0, b"new")]
    synced(operations, 2, "b")
    assert left(operations) == [{}, {"b": b"new"}]
    synced(operations, 9, "")
    assert left(operations) == [{"b": b"new"}]


def test_a_name_without_its_folder_is_out_of_reach() -> None:
    operations: list[Operation] = [MakeFolder("f"), Create(2, "f/b")]
    synced(operations, 8, "f")
    assert left(operations) == [{}, {"f/b": b""}]
    synced(operations, 9, "")
    assert left(operations) == [{"f/b": b""}]


def test_a_rename_between_folders_is_kept_by_the_one_it_goes_to() -> None:
    before = (Existing(7, "f", None), Existing(8, "g", None), Existing(1, "f/a", b"old"))
    operations: list[Operation] = [Rename("f/a", "g/a")]
    synced(operations, 7, "f")
    assert left(operations, before) == [{"f/a": b"old"}, {"g/a": b"old"}]
    synced(operations, 8, "g")
    assert left(operations, before) == [{"g/a": b"old"}]


def test_a_removed_file_may_come_back_with_what_was_in_it() -> None:
    operations: list[Operation] = [Unlink("a"), Create(1, "a"), Write(1, "a", 0, b"new")]
    found = left(operations, OLD)  # the inode's number is used again
    assert {"a": b"old"} in found
    assert {} in found
    assert {"a": b"new"} in found
    assert {"a": b"newold"} not in found


def test_an_entry_keeps_the_order_of_its_changes() -> None:
    operations: list[Operation] = [Create(2, "t"), Rename("t", "a"), Create(3, "t"), Create(4, "c")]
    names = {tuple(sorted(state)) for state in left(operations, OLD)}
    # Never the second "t" without the rename that made room for it.
    assert names == {("a",), ("a", "t"), ("a", "c"), ("a", "c", "t")}


def test_a_write_to_a_file_that_nobody_saw_made_is_refused() -> None:
    with pytest.raises(ValueError, match="who made it was not recorded"):
        left([Write(5, "b", 0, b"x")])


def test_a_state_is_written(tmp_path: Path) -> None:
    operations = (MakeFolder("f"), MakeFolder("f/g"), Create(2, "f/b"), Write(2, "f/b", 0, b"new"))
    *_, last = kill_states(Trace(OLD, operations))
    out = tmp_path / "out"
    (out / "leftover" / "inner").mkdir(parents=True)
    (out / "leftover" / "file").write_bytes(b"x")
    (out / "a").write_bytes(b"old")
    os.link(out / "a", out / "other")
    (out / "f").write_bytes(b"a file where a folder must be")
    for _ in range(2):
        last.write_to(out)
        assert {path.relative_to(out).as_posix() for path in out.rglob("*")} == {
            *("a", "f", "f/b", "f/g"),
        }
        assert (out / "f" / "b").read_bytes() == b"new"
        assert (out / "a").read_bytes() == b"old"
        (out / "f" / "b").write_bytes(b"what a program did to it")


# ---- programs: what is right stands, what is wrong is found


WRITERS = {
    "write_atomic": "write_atomic(Path('heads'), [b'new, and longer'])",
    "no fsync of the folder": """
with open('t', 'wb') as file:
    file.write(b'new, and longer'); file.flush(); os.fsync(file.fileno())
os.replace('t', 'heads')""",
    "no fsync of the file": """
with open('t', 'wb') as file:
    file.write(b'new, and longer')
os.replace('t', 'heads')
sync_folder(Path('.'))""",
    "rename before fsync": """
file = open('t', 'wb', buffering=0)
file.write(b'new, and longer')
os.replace('t', 'heads')
os.fsync(file.fileno())
sync_folder(Path('.'))""",
    "in place": """
with open('heads', 'wb') as file:
    file.write(b'new, and longer'); file.flush(); os.fsync(file.fileno())""",
    "not durable": "write_atomic(Path('heads'), [b'new, and longer'], durable=False)",
}


def states_of(recording_of: RecordingOf, folder: Path, script: str) -> list[CrashState]:
    recording = recording_of(folder)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=recording.env() | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(crash_states(recording.trace()))


def wrong(states: list[CrashState]) -> set[tuple[str, str]]:
    """(Kind of crash, what was found) where neither the old content nor the new stands."""
    found: set[tuple[str, str]] = set()
    for state in states:
        content = state.contents().get("heads")
        if content not in {b"old", b"new, and longer"}:
            found.add((state.kind, "torn"))
        elif state.marks and content == b"old":
            found.add((state.kind, "lost"))
    return found


@linux
@pytest.mark.parametrize(
    ("writer", "found"),
    [
        ("write_atomic", set()),
        ("no fsync of the folder", {("power loss", "lost")}),
        ("no fsync of the file", {("power loss", "torn")}),
        ("rename before fsync", {("power loss", "torn")}),
        ("in place", {("kill", "torn"), ("power loss", "torn")}),
        ("not durable", {("power loss", "torn"), ("power loss", "lost")}),
    ],
)
def test_writers_of_a_file(
    recording_of: RecordingOf, tmp_path: Path, writer: str, found: set[tuple[str, str]]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "heads").write_bytes(b"old")
    script = (
        "import os\nfrom pathlib import Path\n"
        "from ravan_edge.files import sync_folder, write_atomic\n"
        f"{WRITERS[writer]}\n"
        "os.write(os.open(os.environ['RECORDER_MARKS'], os.O_WRONLY), b'done')"
    )
    states = states_of(recording_of, tmp_path / "data", script)
    assert wrong(states) == found
    assert {state.marks for state in states} == {(), ("done",)}


GROUP_COMMIT = """
import os, threading
log = os.open("log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
os.fsync(os.open(".", os.O_RDONLY))
marks = os.open(os.environ["RECORDER_MARKS"], os.O_WRONLY | os.O_APPEND)
lock, written, durable = threading.Lock(), [0], [0]
def commit():
    while True:
        with lock:
            goal = written[0] if RIGHT else None
            if durable[0] >= 40:
                return
        os.fsync(log)
        with lock:
            # wrong: all that is written by now, also what came while the fsync ran
            goal = written[0] if goal is None else goal
            for number in range(durable[0], goal):
                os.write(marks, b"%02d" % number)
            durable[0] = goal
def append():
    for number in range(40):
        with lock:
            os.write(log, b"%02d;" % number)
            written[0] += 1
threads = [threading.Thread(target=work) for work in (append, commit)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@linux
@pytest.mark.parametrize("right", [True, False], ids=["begin", "end"])
def test_a_group_commit_that_counts_from_the_end_of_its_fsync_is_found(
    recording_of: RecordingOf, tmp_path: Path, right: bool
) -> None:
    lost: list[CrashState] = []
    for attempt in range(1 if right else 50):  # the fsync must fall between two writes
        script = f"RIGHT = {right}\n{GROUP_COMMIT}"
        states = states_of(recording_of, tmp_path / f"data{attempt}", script)
        lost = [
            state
            for state in states
            if not set(state.marks) <= set(state.contents().get("log", b"").decode().split(";"))
        ]
        if lost:
            break
    assert {state.kind for state in lost} == (set() if right else {"power loss"})


COMMITS = """
import os, sqlite3
marks = os.open(os.environ["RECORDER_MARKS"], os.O_WRONLY | os.O_APPEND)
db = sqlite3.connect("a.db", isolation_level=None)
db.execute("pragma journal_mode = {journal}")
db.execute("pragma synchronous = {synchronous}")
db.execute("pragma wal_autocheckpoint = 8")
db.execute("create table if not exists uploads (number integer primary key, data blob)")
for number in range(8):
    db.execute("begin immediate")
    db.execute("insert into uploads values (?, zeroblob(3000))", (number,))
    db.execute("commit")
    os.write(marks, b"%d" % number)
"""


def committed(folder: Path) -> list[str] | str:
    """Numbers of the rows that a new program finds, or what is broken."""
    db = sqlite3.connect(folder / "a.db")
    try:
        (sound,) = db.execute("pragma integrity_check").fetchone()
        if sound != "ok":
            return str(sound)
        return [str(row[0]) for row in db.execute("select number from uploads order by number")]
    except sqlite3.OperationalError as error:
        return [] if "no such table" in str(error) else str(error)
    except sqlite3.DatabaseError as error:
        return str(error)
    finally:
        db.close()


@linux
@pytest.mark.parametrize(
    ("journal", "synchronous", "loses"),
    [
        ("wal", "full", False),
        ("delete", "extra", False),
        ("delete", "full", True),  # the journal that a commit removes may come back
        ("wal", "normal", True),
        ("wal", "off", True),
        ("delete", "off", True),
    ],
)
def test_sqlite_keeps_commits_as_far_as_it_is_told_to(
    recording_of: RecordingOf, tmp_path: Path, journal: str, synchronous: str, loses: bool
) -> None:
    script = COMMITS.format(journal=journal, synchronous=synchronous)
    states = states_of(recording_of, tmp_path / "data", script)
    lost = []
    for state in states:
        state.write_to(tmp_path / "crashed")
        found = committed(tmp_path / "crashed")
        promised = list(state.marks)
        if found not in (promised, [*promised, str(len(promised))]):
            lost.append(state)
    assert {state.kind for state in lost} == ({"power loss"} if loses else set()), lost
    assert len(states) > 100
