"""A runtime in a process of its own that dies in mid-step: the device is lost, the round goes on."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import pytest

from ravan_edge.artifact import Artifact
from ravan_edge.errors import WorkerError
from ravan_edge.plans import RuntimeSettings
from ravan_edge.plans.worker_step import WorkerStep
from ravan_edge.simulate import engine, simulate, worker
from tests.simulate.conftest import RequestFor
from tests.simulate.in_process import InProcessPool
from tests.simulate.same_run import comparable, metrics

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The step runs in another process, which dies with each device of the set."""
    doomed: set[int] = set()
    real = worker.local_round

    def open_step(artifact: Artifact, plan: str, settings: RuntimeSettings) -> WorkerStep:
        return WorkerStep(
            artifact, plan, settings, python=sys.executable, module="tests.plans.odd_worker"
        )

    def struck(step: WorkerStep, *arguments: Any, device: int, **named: Any) -> Any:
        if device in doomed:
            if step.process_id is None:
                step._start()
            assert step.process_id is not None
            os.kill(step.process_id, signal.SIGKILL)
        return real(step, *arguments, device=device, **named)

    monkeypatch.setattr(engine, "WorkerPool", InProcessPool)
    monkeypatch.setattr(worker, "open_step", open_step)
    monkeypatch.setattr(worker, "local_round", struck)
    return doomed


# The pool of tests/simulate/in_process.py leaves its steps to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestCrash:
    def test_the_device_is_left_out_and_the_round_goes_on(
        self, request_for: RequestFor, apart: set[int]
    ) -> None:
        apart.add(2)
        request = request_for(per_round=8, rounds=2)
        summary = simulate(request, workers=1)
        crashed = [line for line in metrics(request.out, "device") if line["status"] == "crashed"]
        assert {line["device"] for line in crashed} == {2}
        assert all("SIGKILL" in line["error"] for line in crashed)
        assert all(line["merged"] == 7 for line in metrics(request.out, "round"))
        assert summary["devices"]["crashed"] == 2

    def test_a_round_without_anybody_is_not_counted(
        self, request_for: RequestFor, apart: set[int]
    ) -> None:
        whole = request_for("whole", per_round=4, rounds=2)
        simulate(whole, workers=1)
        request = request_for("struck", per_round=4, rounds=2)
        apart.update(range(1000))
        with pytest.raises(WorkerError, match="round 1: the step of every device crashed") as found:
            simulate(request, workers=1)
        assert "same command" in str(found.value)
        apart.clear()
        simulate(request, workers=1)
        assert comparable(request.out) == comparable(whole.out)
