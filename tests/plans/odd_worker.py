"""The child of tests/plans/test_worker_step.py: plan ``whole`` with bad habits.

``ODD_WORKER`` says which: ``silent`` ends at once, ``mute`` never says anything, ``stuck`` opens no
artifact, ``stranger`` is of another version, ``babble`` answers what is no message. A batch with a
``trick`` makes the step do worse.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.opening import Artifact
from ravan_edge.errors import DataError, NumericsError
from ravan_edge.methods.layout import Vector
from ravan_edge.plans.frames import Frame, write_frame
from ravan_edge.plans.step import Evaluation, RuntimeSettings, StepResult
from ravan_edge.plans.whole import WholeStep
from ravan_edge.plans.worker_serve import serve

TRICKS = (
    "kill",
    "segfault",
    "exit",
    "numerics",
    "bug",
    "memory",
    "chatter",
    "few",
    "flat",
    "wide",
    "hang",
)


class OddStep(WholeStep):
    """Plan ``whole`` with tricks."""

    def train(
        self, batch: Mapping[str, NDArray[Any]], trainables: Mapping[str, Vector]
    ) -> StepResult:
        plain = dict(batch)
        trick = plain.pop("trick", None)
        if trick is not None:
            _play(TRICKS[int(trick)])
        found = super().train(plain, trainables)
        return found if trick is None else _spoilt(found, TRICKS[int(trick)])

    def evaluate(
        self, batch: Mapping[str, NDArray[Any]], trainables: Mapping[str, Vector]
    ) -> Evaluation:
        plain = dict(batch)
        trick = plain.pop("trick", None)
        found = super().evaluate(plain, trainables)
        if trick is None or found.logits is None:
            return found
        return replace(found, logits=found.logits[:, :1])


def _spoilt(found: StepResult, trick: str) -> StepResult:
    """Gradients that are not the manifest's."""
    gradients = dict(found.gradients)
    first = next(iter(gradients))
    if trick == "few":
        gradients.pop(first)
    elif trick == "flat":
        gradients[first] = gradients[first][:1]
    elif trick == "wide":
        gradients[first] = gradients[first].astype(np.float64)
    return replace(found, gradients=gradients)


def _play(trick: str) -> None:
    if trick == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if trick == "segfault":
        print("something is about to happen", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if trick == "exit":
        os._exit(3)
    if trick == "hang":
        time.sleep(60)
    if trick == "numerics":
        raise NumericsError("went bad", where="round 3", hint="lower it")
    if trick == "bug":
        raise ZeroDivisionError("a bug")
    if trick == "memory":
        raise MemoryError
    if trick == "chatter":
        print("x" * 100_000, flush=True)
        print("y" * 100_000, file=sys.stderr, flush=True)


def _open(artifact: Artifact, settings: RuntimeSettings) -> OddStep:
    if os.environ.get("ODD_WORKER") == "stuck":
        time.sleep(60)
    if os.environ.get("ODD_WORKER") == "refuses":
        raise DataError("not this one", where="here")
    return OddStep(artifact, settings)


def main() -> None:
    habit = os.environ.get("ODD_WORKER", "")
    if habit == "mute":
        time.sleep(60)
    if habit == "silent":
        raise SystemExit("no module named anything")
    if habit == "stranger":
        write_frame(sys.stdout.buffer, Frame("hello", {"protocol": 99, "ravan_edge": "9.9"}))
    elif habit == "noise":
        sys.stdout.write("Welcome to this runtime! " * 10)
        sys.stdout.flush()
    elif habit == "babble":
        write_frame(sys.stdout.buffer, Frame("hello", {"protocol": 1, "ravan_edge": ""}))
        write_frame(sys.stdout.buffer, Frame("opened", {}))
        sys.stdout.write("loss: 3.5 " * 10)
        sys.stdout.flush()
        sys.stdin.read()
    elif habit in {"wrong", "hollow"}:
        write_frame(sys.stdout.buffer, Frame("hello", {"protocol": 1, "ravan_edge": ""}))
        write_frame(sys.stdout.buffer, Frame("opened", {}))
        write_frame(sys.stdout.buffer, Frame("trained" if habit == "hollow" else "done", {}))
        sys.stdin.read()
    else:
        serve(_open, distribution="onnxruntime")


if __name__ == "__main__":
    main()
