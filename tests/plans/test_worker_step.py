"""A step in another process: plan ``whole``, which needs no second environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ravan_edge.artifact import Artifact
from ravan_edge.errors import (
    ArtifactError,
    DataError,
    MemoryLimitError,
    MissingExtraError,
    NumericsError,
    WorkerError,
)
from ravan_edge.methods import method_for
from ravan_edge.plans import RuntimeSettings, WholeStep
from ravan_edge.plans.step import Step
from ravan_edge.plans.worker_step import WorkerStep
from tests.plans.odd_worker import TRICKS
from tests.tiny_artifact import make_tiny_artifact, tiny_step_batch

MODULE = "tests.plans.odd_worker"
SETTINGS = RuntimeSettings(threads=1)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("worker") / "artifact")


def worker(artifact: Artifact, **more: Any) -> WorkerStep:
    keywords: dict[str, Any] = {"python": sys.executable, "module": MODULE, **more}
    return WorkerStep(artifact, "whole", SETTINGS, **keywords)


@pytest.fixture
def step(artifact: Artifact) -> Iterator[WorkerStep]:
    with worker(artifact) as step:
        yield step


def batch(trick: str | None = None) -> dict[str, NDArray[Any]]:
    found = dict(tiny_step_batch(3, 7))
    if trick is not None:
        found["trick"] = np.array(TRICKS.index(trick))
    return found


def inputs(artifact: Artifact, step: Step, trained: dict[str, Any] | None = None) -> dict[str, Any]:
    method = method_for(artifact.manifest)
    heads = method.start_round(method.layout.pack(artifact.initial_heads()))
    if trained is None:
        heads += np.random.default_rng(5).standard_normal(heads.size).astype(np.float32)
    training = method.training(heads, trained)
    step.use_heads(training.running)
    return dict(method.to_graph(heads, training))


def test_it_computes_what_the_step_computes_in_this_process(
    artifact: Artifact, step: WorkerStep
) -> None:
    with WholeStep(artifact, SETTINGS) as near:
        here = inputs(artifact, near)
        expected = near.train(batch(), here), near.evaluate(batch(), here)
    there = inputs(artifact, step)
    for _ in range(2):
        found = step.train(batch(), there)
        assert (found.loss_sum, found.count, found.metrics) == (
            expected[0].loss_sum, expected[0].count, expected[0].metrics,
        )  # fmt: skip
        assert list(found.gradients) == list(expected[0].gradients)
        for name, gradient in found.gradients.items():
            assert gradient.tobytes() == expected[0].gradients[name].tobytes()
    scored = step.evaluate(batch(), there)
    assert scored.loss_sum == expected[1].loss_sum
    assert scored.logits is not None
    assert expected[1].logits is not None
    assert scored.logits.tobytes() == expected[1].logits.tobytes()
    assert step.runtime.startswith("onnxruntime 1.")


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize(
    ("trick", "said"),
    [
        ("kill", "SIGKILL: by somebody"),
        ("segfault", "SIGSEGV.*about to happen"),
        ("exit", "code 3"),
    ],
)
def test_a_process_that_dies_in_mid_step_costs_that_step_only(
    artifact: Artifact, step: WorkerStep, trick: str, said: str
) -> None:
    some = {layer.name: np.array([0, 2]) for layer in artifact.manifest.layers}
    given = inputs(artifact, step, some)
    before = step.train(batch(), given)
    first = step.process_id
    with pytest.raises(WorkerError, match=said) as caught:
        step.train(batch(trick), given)
    assert "starts a new process" in str(caught.value)
    assert step.process_id is None
    after = step.train(batch(), given)
    assert step.process_id not in {None, first}
    assert after.loss_sum == before.loss_sum, "the new process was told which heads run"
    for name, gradient in after.gradients.items():
        assert gradient.tobytes() == before.gradients[name].tobytes()


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_a_process_that_dies_between_steps(artifact: Artifact, step: WorkerStep) -> None:
    given = inputs(artifact, step)
    assert step.process_id is not None
    os.kill(step.process_id, signal.SIGKILL)
    with pytest.raises(WorkerError, match="SIGKILL"):
        step.train(batch(), given)
    assert step.train(batch(), given).count > 0


def test_a_process_that_hangs_in_mid_step_is_ended(artifact: Artifact) -> None:
    with worker(artifact, answer_seconds=5.0) as step:  # its start is measured too
        given = inputs(artifact, step)
        before = step.train(batch(), given)
        first = step.process_id
        assert first is not None
        began = time.monotonic()
        with pytest.raises(WorkerError, match="gave no answer for 5 s and was ended") as caught:
            step.train(batch("hang"), given)
        assert 5 <= time.monotonic() - began < 30
        assert caught.value.exit_code == 9
        assert "starts a new process" in str(caught.value)
        assert not _runs(first)
        assert step.process_id is None
        assert step.train(batch(), given).loss_sum == before.loss_sum


@pytest.mark.parametrize("habit", ["mute", "stuck"])
def test_a_process_that_hangs_before_its_first_step(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, habit: str
) -> None:
    monkeypatch.setenv("ODD_WORKER", habit)
    with pytest.raises(WorkerError, match="gave no answer for 2 s"):
        worker(artifact, answer_seconds=2.0)


@pytest.mark.slow
def test_many_short_answers_are_no_long_one(artifact: Artifact) -> None:
    with worker(artifact, answer_seconds=5.0) as step:
        given = inputs(artifact, step)
        first = step.process_id
        began = time.monotonic()
        while time.monotonic() - began < 6:
            step.train(batch(), given)
        time.sleep(6)  # nothing is asked
        step.train(batch(), given)
        assert step.process_id == first


@pytest.mark.parametrize(
    ("trick", "kind", "said"),
    [
        ("numerics", NumericsError, "round 3: went bad. To mend it: lower it"),
        ("memory", MemoryLimitError, "ran out of memory"),
        ("bug", WorkerError, "failed: ZeroDivisionError: a bug"),
    ],
)
def test_errors_cross_and_the_process_lives_on(
    artifact: Artifact, step: WorkerStep, trick: str, kind: type[Exception], said: str
) -> None:
    given = inputs(artifact, step)
    first = step.process_id
    with pytest.raises(kind, match=said) as caught:
        step.train(batch(trick), given)
    assert type(caught.value) is kind
    assert step.train(batch(), given).count > 0
    assert step.process_id == first


def test_what_libraries_print_does_not_meet_the_messages(
    artifact: Artifact, step: WorkerStep
) -> None:
    given = inputs(artifact, step)
    assert step.train(batch("chatter"), given).count > 0


@pytest.mark.parametrize(
    ("habit", "said"),
    [
        ("silent", "ended before it could say anything: no module named anything"),
        ("stranger", r"has ravan-edge 9\.9 \(messages 99\)"),
        ("noise", "answers nonsense"),
    ],
)
def test_a_process_that_does_not_come_up(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, habit: str, said: str
) -> None:
    monkeypatch.setenv("ODD_WORKER", habit)
    with pytest.raises(MissingExtraError, match=said) as caught:
        worker(artifact, hint="make it again")
    assert caught.value.hint == "make it again"
    assert caught.value.where == sys.executable


def test_no_such_interpreter(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match="cannot be started: No such file"):
        worker(artifact, python=str(tmp_path / "python"))


def test_a_runtime_that_refuses_the_artifact(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD_WORKER", "refuses")
    with pytest.raises(DataError, match="here: not this one"):
        worker(artifact)


def test_a_plan_that_the_artifact_does_not_have(artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="export it with --plans block"):
        WorkerStep(artifact, "block", SETTINGS, python=sys.executable, module=MODULE)


@pytest.mark.parametrize(
    ("habit", "said"),
    [
        ("babble", "answers nonsense: bytes that are no message"),
        ("wrong", "answers 'done' to 'train'"),
        ("hollow", "answers nonsense: 'metrics'"),
    ],
)
def test_a_process_that_answers_nonsense(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, habit: str, said: str
) -> None:
    monkeypatch.setenv("ODD_WORKER", habit)
    with worker(artifact) as step:
        with pytest.raises(WorkerError, match=said):
            step.train(batch(), {})
        assert step.process_id is None
        monkeypatch.setenv("ODD_WORKER", "")
        assert step.train(batch(), inputs(artifact, step)).count > 0


def test_closing_ends_the_process_and_may_be_repeated(artifact: Artifact) -> None:
    step = worker(artifact)
    process = step.process_id
    step.close()
    step.close()
    assert process is not None
    assert not _runs(process)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks through /proc")
def test_the_process_ends_with_its_host(artifact: Artifact) -> None:
    code = f"""
import sys, time
from pathlib import Path
from ravan_edge.artifact import open_artifact
from ravan_edge.plans import RuntimeSettings
from ravan_edge.plans.worker_step import WorkerStep
artifact = open_artifact(Path({str(artifact.folder)!r}))
step = WorkerStep(artifact, "whole", RuntimeSettings(), python=sys.executable, module={MODULE!r})
print(step.process_id, flush=True)
time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as host:
        assert host.stdout is not None
        process = int(host.stdout.readline())
        assert _runs(process)
        host.kill()
    deadline = time.monotonic() + 10
    while _runs(process):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(process: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{process}/stat").read_text("utf-8")
    except OSError:
        return False


@pytest.mark.parametrize("trick", ["few", "flat", "wide"])
def test_gradients_that_are_not_the_manifests_are_refused(
    artifact: Artifact, step: WorkerStep, trick: str
) -> None:
    given = inputs(artifact, step)
    with pytest.raises(ArtifactError, match="returns other gradients than the manifest says"):
        step.train(batch(trick), given)
    assert step.train(batch(), given).count > 0  # in a new process


def test_logits_that_are_not_the_manifests_are_refused(
    artifact: Artifact, step: WorkerStep
) -> None:
    given = inputs(artifact, step)
    with pytest.raises(ArtifactError, match="returns other logits") as caught:
        step.evaluate(batch("few"), given)
    assert caught.value.exit_code == 3
