"""A run survives anything: kills, failing and full disks, dead workers, Ctrl-C."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ravan_edge.errors import InterruptedRunError, RavanError, StorageError
from ravan_edge.simulate import RoundDone, SimulationRequest, engine, simulate
from ravan_edge.simulate.run_folder import CHECKPOINT_NAME, METRICS_NAME
from ravan_edge.simulate.state import state_from_bytes
from tests.simulate.conftest import RequestFor
from tests.simulate.faults import FailingDisk, Killed, disk_full
from tests.simulate.same_run import comparable

SETTINGS: dict[str, Any] = {
    "partition": "dirichlet:0.5",
    "head_budgets": "2:0.5,4:0.5",
    "drop_out": 0.1,
}

SCRIPT = """
import pickle, sys
from ravan_edge.simulate import simulate
with open(sys.argv[1], "rb") as file:
    request = pickle.load(file)
simulate(request, workers=int(sys.argv[2]))
"""


def start(request: SimulationRequest, workers: int) -> subprocess.Popen[str]:
    import pickle

    path = request.out.with_suffix(".pickle")
    path.write_bytes(pickle.dumps(request))
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path), str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rounds_done(folder: Path) -> int:
    """Rounds in metrics.jsonl, whole or torn."""
    path = folder / METRICS_NAME
    return path.read_bytes().count(b'{"kind":"round"') if path.exists() else -1


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
    return [
        int(child)
        for child in text.split()
        if b"simulate.worker" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def kill_and_resume(request: SimulationRequest, kills: int, seed: int) -> int:
    """Kill the run so many times at random moments, then let it end; how often it was killed."""
    choice = random.Random(seed)
    killed = 0
    for _ in range(kills):
        process = start(request, workers=choice.choice([1, 2]))
        goal = rounds_done(request.out) + choice.randint(0, 6)
        wait_for(lambda goal=goal: rounds_done(request.out) >= goal, process)  # type: ignore[misc]
        time.sleep(choice.random() * 0.02)
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    process = start(request, workers=2)
    _, complaint = process.communicate()
    assert process.returncode == 0, complaint
    return killed


@pytest.mark.parametrize(
    "kills", [3, pytest.param(20, marks=pytest.mark.slow)], ids=["a few kills", "many kills"]
)
def test_killed_at_random_moments_it_ends_the_same(request_for: RequestFor, kills: int) -> None:
    rounds = 10 * kills
    whole = request_for("whole", rounds=rounds, **SETTINGS)
    simulate(whole, workers=2)
    killed = request_for("killed", rounds=rounds, **SETTINGS)
    assert kill_and_resume(killed, kills, seed=kills) >= 1
    assert comparable(killed.out) == comparable(whole.out)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    "errors",
    [(Killed, disk_full), pytest.param((disk_full, Killed), marks=pytest.mark.slow)],
    ids=["killed or full", "full or killed"],
)
def test_a_disk_that_fails_at_any_operation_loses_nothing(
    request_for: RequestFor, errors: tuple[Callable[[], BaseException], ...]
) -> None:
    simulate(request_for("warm", rounds=2, **SETTINGS))  # fills the cache of token ids
    whole = request_for("whole", rounds=2, **SETTINGS)
    disk = FailingDisk(sys.maxsize, Killed)
    with disk.installed():
        simulate(whole)
    expected = comparable(whole.out)
    assert {"write", "fsync", "rename"} <= set(disk.operations)
    for number in range(len(disk.operations)):
        error = errors[number % 2]
        request = request_for(f"failing{number}", rounds=2, **SETTINGS)
        failing = FailingDisk(number, error)
        with failing.installed(), pytest.raises((Killed, StorageError)) as caught:
            simulate(request)
        assert failing.failed
        if error is not Killed:
            assert isinstance(caught.value, StorageError)
            assert "To mend it" in str(caught.value)
        simulate(request)
        assert comparable(request.out) == expected, f"operation {number}: {disk.operations[number]}"


@pytest.mark.usefixtures("in_process")
def test_a_round_costs_one_fsync(request_for: RequestFor) -> None:
    counts = []
    simulate(request_for("first", rounds=1, evaluate_every=0))  # fills the cache of tokenised rows
    for rounds in (2, 12):
        disk = FailingDisk(sys.maxsize, Killed)
        with disk.installed():
            simulate(request_for(f"{rounds}", rounds=rounds, evaluate_every=0))
        counts.append(disk.operations.count("fsync"))
    assert counts[1] - counts[0] == 10


@pytest.mark.usefixtures("in_process")
def test_unsynced_metrics_come_back_from_the_checkpoint(
    request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = request_for("whole", **SETTINGS)
    simulate(whole)
    request = request_for("powerless", **SETTINGS)

    def cut(event: object) -> None:
        if isinstance(event, RoundDone) and event.round == 2:
            raise Killed

    with pytest.raises(Killed):
        simulate(request, on_event=cut)
    # The power went: what was never synced is gone, and half of something else is there.
    (request.out / METRICS_NAME).write_bytes(b'{"kind": "torn')
    simulate(request)
    assert comparable(request.out) == comparable(whole.out)
    # Long runs drop the lines from the checkpoint once they are durable.
    monkeypatch.setattr("ravan_edge.simulate.run_folder._MOST_PENDING_BYTES", 500)
    small = request_for("small", **SETTINGS)
    simulate(small)
    assert comparable(small.out) == comparable(whole.out)
    content = (small.out / CHECKPOINT_NAME).read_bytes()
    assert state_from_bytes(content, "checkpoint")[2] == b""


@pytest.mark.usefixtures("in_process")
def test_a_damaged_checkpoint_is_said(request_for: RequestFor) -> None:
    request = request_for()
    simulate(request)
    (request.out / "summary.json").unlink()
    path = request.out / CHECKPOINT_NAME
    content = path.read_bytes()
    for damaged in (content[:-1], content[:100], b"", content[:50] + b"x" + content[51:]):
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match="the checkpoint is damaged"):
            simulate(request)
    path.write_bytes(content)
    (request.out / METRICS_NAME).write_bytes(b"")
    simulate(request)
    assert json.loads((request.out / "summary.json").read_text("utf-8"))["rounds"] == 3


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds children through /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_ends_the_run_at_once_and_it_can_be_resumed(
    request_for: RequestFor, how: signal.Signals
) -> None:
    whole = request_for("whole", rounds=30, **SETTINGS)
    simulate(whole, workers=2)
    request = request_for("bereaved", rounds=30, **SETTINGS)
    victims: list[int] = []

    def strike(event: object) -> None:
        if isinstance(event, RoundDone) and event.round == 5 and not victims:
            victims.extend(children(os.getpid()))
            os.kill(victims[0], how)

    began = time.monotonic()
    with pytest.raises(RavanError, match="worker process") as caught:
        simulate(request, workers=2, on_event=strike)
    assert time.monotonic() - began < 30
    assert caught.value.exit_code == (9 if how is signal.SIGKILL else 70)
    assert "same command" in str(caught.value)
    assert not any(Path(f"/proc/{pid}").exists() for pid in victims), "the other one has ended too"
    simulate(request, workers=2)
    assert comparable(request.out) == comparable(whole.out)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds children through /proc")
def test_workers_end_with_their_main_process(request_for: RequestFor) -> None:
    request = request_for(rounds=100_000, evaluate_every=0)
    process = start(request, workers=2)
    wait_for(lambda: rounds_done(request.out) >= 2, process)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text("utf-8")
    except OSError:
        return False


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
def test_ctrl_c_is_clean_and_can_be_resumed(request_for: RequestFor) -> None:
    whole = request_for("whole", rounds=20, **SETTINGS)
    simulate(whole, workers=2)
    request = request_for("interrupted", rounds=20, **SETTINGS)

    def interrupt(event: object) -> None:
        if isinstance(event, RoundDone) and event.round == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError, match="every finished round is kept"):
        simulate(request, workers=2, on_event=interrupt)
    assert children(os.getpid()) == []
    simulate(request, workers=1)
    assert comparable(request.out) == comparable(whole.out)


def test_errors_of_a_worker_keep_their_type(
    request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for()
    # The parent checks the artifact; a worker finds it changed a moment later.
    real = engine.prepare

    def spoil(*arguments: Any, **named: Any) -> Any:
        prepared = real(*arguments, **named)
        prepared.data.heads[:] = 99
        return prepared

    monkeypatch.setattr(engine, "prepare", spoil)
    with pytest.raises(RavanError) as caught:
        simulate(request, workers=2)
    assert caught.value.exit_code == 70
    assert "KeyError" in str(caught.value) or "ValueError" in str(caught.value)
    assert any("Traceback" in note for note in caught.value.__cause__.__notes__)  # type: ignore[union-attr]
