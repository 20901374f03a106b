from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import RecordingOf
from tests.faults.crash_states import kill_states
from tests.faults.recorder import (
    Create,
    Failed,
    Fault,
    Link,
    MakeFolder,
    Mark,
    Operation,
    Recording,
    RemoveFolder,
    Rename,
    Sync,
    SyncBegin,
    Truncate,
    Unlink,
    Write,
    build_library,
)

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the recorder is loaded with LD_PRELOAD"
)

STORE = """
import os
from pathlib import Path
from ravan_edge.files import write_atomic
write_atomic(Path("heads"), [b"new content"])
os.write(os.open(os.environ["RECORDER_MARKS"], os.O_WRONLY), b"done\\n")
"""


def run(
    recording: Recording, script: str, fault: Fault | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=recording.folder,
        env=recording.env(fault) | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )


def recorded(recording: Recording, script: str) -> tuple[Operation, ...]:
    done = run(recording, script)
    assert done.returncode == 0, done.stderr
    return recording.trace().operations


def kinds(operations: tuple[Operation, ...]) -> list[type[Operation]]:
    return [type(one) for one in operations]


def test_an_atomic_write_is_seen_as_it_is(recording_of: RecordingOf, tmp_path: Path) -> None:
    operations = recorded(recording_of(tmp_path / "data"), STORE)
    assert kinds(operations) == [
        *(Create, Write, SyncBegin, Sync, Rename, SyncBegin, Sync, Mark),
    ]
    create, write, _, sync, rename, _, folder, mark = operations
    assert isinstance(create, Create)
    assert isinstance(write, Write)
    assert isinstance(sync, Sync)
    assert isinstance(folder, Sync)
    assert (write.file, write.path, write.offset, write.data) == (
        *(create.file, create.path, 0, b"new content"),
    )
    assert (sync.file, sync.began) == (create.file, 2)
    assert (folder.path, folder.began) == ("", 5)
    assert rename == Rename(create.path, "heads")
    assert mark == Mark("done")


EVERY_CALL = """
import os
from pathlib import Path
os.mkdir("one"); os.mkdir("two")
one = os.open("one", os.O_RDONLY)
fd = os.open("a", os.O_CREAT | os.O_RDWR, dir_fd=one)
os.write(fd, b"0123456789")
os.writev(fd, [b"ab", b"", b"cd"])
os.pwrite(fd, b"XY", 2)
os.pwritev(fd, [b"Z", b"W"], 20)
other = os.dup(fd)
os.lseek(other, -1, os.SEEK_END)
os.rename("a", "b", src_dir_fd=one, dst_dir_fd=one)
os.write(other, b"after")
os.ftruncate(fd, 24)
os.posix_fallocate(fd, 20, 10)
os.truncate("one/b", 29)
appended = os.open("one/../one/b", os.O_APPEND | os.O_WRONLY)
os.pwrite(appended, b"end", 0)
os.link("one/b", "two/c")
os.replace("two/c", "two/d")
os.unlink("d", dir_fd=os.open("two", os.O_RDONLY))
Path("gone").write_bytes(b"x"); Path("gone").write_bytes(b"y")
removed = os.open("gone", os.O_WRONLY)
os.remove("gone")
os.write(removed, b"into nothing")
os.rmdir("two")
try:
    os.unlink("never")
except FileNotFoundError:
    pass
for descriptor in (fd, one):
    os.fdatasync(descriptor)
"""


def test_every_call_replayed_gives_the_same_folder(
    recording_of: RecordingOf, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "old").write_bytes(b"there before")
    recording = recording_of(folder)
    operations = recorded(recording, EVERY_CALL)
    assert {*kinds(operations)} >= {Create, Truncate, Write, SyncBegin, Sync, Rename, Link}
    assert {*kinds(operations)} >= {Unlink, MakeFolder, RemoveFolder}
    assert Unlink("never") not in operations
    *_, last = kill_states(recording.trace())
    assert last.contents() == {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert last.folders == ("one",)


PROCESSES = """
import os, subprocess, sys, threading
def append(name):
    fd = os.open("log", os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    for number in range(50):
        os.write(fd, b"%s%02d;" % (name, number))
if len(sys.argv) > 1:
    append(sys.argv[1].encode())
else:
    threads = [threading.Thread(target=append, args=(name,)) for name in (b"a", b"b")]
    for thread in threads:
        thread.start()
    child = os.fork()
    if child == 0:
        append(b"c")
        os._exit(0)
    subprocess.run([sys.executable, __file__, "d"], check=True)
    os.waitpid(child, 0)
    for thread in threads:
        thread.join()
"""


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_threads_and_processes_have_one_order(recording_of: RecordingOf, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(PROCESSES, "utf-8")
    recording = recording_of(tmp_path / "data")
    subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        cwd=recording.folder,
        env=recording.env(),
        check=True,
    )
    writes = [one for one in recording.trace().operations if isinstance(one, Write)]
    assert len(writes) == 200
    content = b"".join(one.data for one in writes)
    assert content == (recording.folder / "log").read_bytes()


def test_a_mark_from_outside_stands_between_what_was_before_and_after(
    recording_of: RecordingOf, tmp_path: Path
) -> None:
    recording = recording_of(tmp_path / "data")
    recorded(recording, "open('a', 'w').close()")
    recording.mark("told")
    recorded(recording, "open('b', 'w').close()")
    assert kinds(recording.trace().operations) == [Create, Mark, Create]
    assert recording.trace().marks == ("told",)


@pytest.mark.parametrize(
    ("script", "call"),
    [
        ("import mmap; f = open('a', 'r+'); mmap.mmap(f.fileno(), 0)[0] = 1", "mmap"),
        ("import shutil; shutil.copyfile('a', 'b')", "sendfile"),
        ("import os; os.symlink('a', 'b')", "symlink"),
        ("import os; os.open('a', os.O_WRONLY | os.O_DSYNC)", "O_DSYNC"),
        ("import os; os.rename('a', '../a')", "out of the folder"),
        ("import os; os.open('.', os.O_TMPFILE | os.O_WRONLY)", "O_TMPFILE"),
    ],
)
def test_what_cannot_be_recorded_is_said(
    recording_of: RecordingOf, tmp_path: Path, script: str, call: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(b"content")
    recording = recording_of(tmp_path / "data")
    assert run(recording, script).returncode == 0
    with pytest.raises(ValueError, match=rf"{call}.* cannot be recorded"):
        recording.trace()


def faults_of(recording_of: RecordingOf, folder: Path) -> range:
    """Numbers of all operations of STORE."""
    recording = recording_of(folder)
    recorded(recording, STORE)
    return range(len(recording.trace().numbered))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("lasting", [False, True])
def test_an_error_reaches_the_program_at_each_operation(
    recording_of: RecordingOf, tmp_path: Path, code: int, lasting: bool
) -> None:
    for at in faults_of(recording_of, tmp_path / "whole"):
        recording = recording_of(tmp_path / f"data{at}")
        done = run(recording, STORE, Fault(at, code, lasting=lasting))
        assert done.returncode == 1
        assert os.strerror(code) in done.stderr
        assert "StorageError" in done.stderr
        trace = recording.trace()
        failed = trace.numbered[at]
        assert isinstance(failed, Failed)
        assert failed.error == code
        assert trace.marks == ()
        if code == errno.ENOSPC:  # a full disk can be cleaned up
            assert [path.name for path in recording.folder.iterdir()] == ["heads"][: at >= 4]


def test_a_disk_that_fills_up_takes_half_a_write_first(
    recording_of: RecordingOf, tmp_path: Path
) -> None:
    recording = recording_of(tmp_path / "data")
    script = (
        "import os\nfd = os.open('a', os.O_CREAT | os.O_WRONLY)\n"
        "assert os.write(fd, b'01234567') == 4\nos.write(fd, b'4567')"
    )
    done = run(recording, script, Fault(1, errno.ENOSPC, half=True))
    assert "No space left on device" in done.stderr
    assert (recording.folder / "a").read_bytes() == b"0123"
    assert kinds(recording.trace().operations) == [Create, Write, Failed]


@pytest.mark.parametrize("half", [False, True])
def test_a_kill_leaves_what_the_states_of_a_kill_say(
    recording_of: RecordingOf, tmp_path: Path, half: bool
) -> None:
    def shown(content: dict[str, bytes]) -> dict[str, bytes]:
        # the names of temporary files are random
        return {name if name == "heads" else ".tmp": data for name, data in content.items()}

    whole = recording_of(tmp_path / "whole")
    recorded(whole, STORE)
    predicted = [shown(state.contents()) for state in kill_states(whole.trace())]
    torn = 0
    for at in range(len(whole.trace().numbered)):
        recording = recording_of(tmp_path / f"data{at}")
        assert run(recording, STORE, Fault(at, half=half)).returncode == -signal.SIGKILL
        found = {path.name: path.read_bytes() for path in recording.folder.iterdir()}
        assert shown(found) in predicted
        torn += b"new c" in found.values()
        *_, last = kill_states(recording.trace())
        assert last.contents() == found
    assert torn == half


def test_without_a_compiler_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="apt-get install gcc"):
        build_library(tmp_path / "library")
    assert not (tmp_path / "library").exists()
