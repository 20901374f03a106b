"""The other end of :class:`ravan_edge.plans.worker_step.WorkerStep`: what runs in the child process.

A runtime's worker is a file of its own, the only one that imports the runtime::

    if __name__ == "__main__":
        serve(make_step, distribution="executorch")
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from ravan_edge.artifact.opening import Artifact, open_artifact
from ravan_edge.errors import MemoryLimitError, RavanError
from ravan_edge.plans.frames import Frame, read_frame, write_frame
from ravan_edge.plans.step import RuntimeSettings, Step

__all__ = ["BATCH", "INPUT", "PROTOCOL", "MakeStep", "installed_version", "serve"]

PROTOCOL = 1
"""Version of the messages: raised when one changes its meaning."""

BATCH = "batch."
INPUT = "input."
"""How the names of arrays begin: of the batch, and of what trains."""

_TORN_PIPE = (EOFError, BrokenPipeError, ConnectionResetError)

MakeStep = Callable[[Artifact, RuntimeSettings], Step]


def installed_version(distribution: str) -> str:
    """Of a package in this environment; empty where it is not installed (a checkout on the path)."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _opened(frame: Frame, make_step: MakeStep, distribution: str) -> tuple[Step, Frame]:
    folder = Path(str(frame.fields["folder"]))
    # The host has checked digests when it opened the artifact.
    artifact = open_artifact(folder, check_digests=False)
    step = make_step(artifact, RuntimeSettings(**frame.fields["settings"]))
    described = {"runtime": distribution, "runtime_version": installed_version(distribution)}
    return step, Frame("opened", described)


def _split(frame: Frame) -> tuple[dict[str, Any], dict[str, Any]]:
    """The batch and the inputs that train."""
    parts: dict[str, dict[str, Any]] = {BATCH: {}, INPUT: {}}
    for name, array in frame.arrays.items():
        kind = BATCH if name.startswith(BATCH) else INPUT
        parts[kind][name.removeprefix(kind)] = array
    return parts[BATCH], parts[INPUT]


def _answer(step: Step, frame: Frame) -> Frame:
    if frame.op == "use_heads":
        step.use_heads(frame.arrays)
        return Frame("done")
    batch, inputs = _split(frame)
    if frame.op == "train":
        result = step.train(batch, inputs)
        sums = {"loss_sum": result.loss_sum, "count": result.count, "metrics": dict(result.metrics)}
        return Frame("trained", sums, result.gradients)
    if frame.op == "evaluate":
        found = step.evaluate(batch, inputs)
        sums = {"loss_sum": found.loss_sum, "count": found.count, "metrics": dict(found.metrics)}
        arrays = {} if found.logits is None else {"logits": found.logits}
        return Frame("evaluated", sums, arrays)
    raise ValueError(f"nobody knows what {frame.op!r} is")


def _failure(error: BaseException) -> Frame:
    if isinstance(error, MemoryError):
        error = MemoryLimitError("the runtime's process ran out of memory")
    if isinstance(error, RavanError):
        fields = {"message": error.message, "where": error.where, "hint": error.hint}
        return Frame("error", {"kind": type(error).__name__, **fields})
    traceback.print_exception(error)  # to the host's tail of standard error
    text = f"{type(error).__name__}: {error}"[:2000]
    return Frame("error", {"kind": "", "message": text, "where": None, "hint": None})


def _loop(requests: BinaryIO, answers: BinaryIO, make_step: MakeStep, distribution: str) -> None:
    hello = {"protocol": PROTOCOL, "ravan_edge": installed_version("ravan-edge")}
    write_frame(answers, Frame("hello", hello))
    with contextlib.ExitStack() as stack:
        step: Step | None = None
        while True:
            frame = read_frame(requests)
            try:
                if step is None:
                    step, answer = _opened(frame, make_step, distribution)
                    stack.callback(step.close)
                else:
                    answer = _answer(step, frame)
            except Exception as error:  # noqa: BLE001  (it goes to the host)
                answer = _failure(error)
            write_frame(answers, answer)


def serve(make_step: MakeStep, *, distribution: str) -> None:
    """Run a step for the process that started this one, until its pipe closes. Does not return.

    Args:
        make_step: Opens the plan's step; may import its runtime and raise any RavanError.
        distribution: The package whose version the host is told.
    """
    # Ctrl-C reaches the whole process group; the host decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a library reads or prints must not meet the messages.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    with contextlib.suppress(*_TORN_PIPE):  # the host is gone, or done
        _loop(requests, answers, make_step, distribution)
    sys.stderr.flush()
    # Not through the interpreter's end: a runtime's threads may be in any state.
    os._exit(0)
