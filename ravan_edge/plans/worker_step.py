"""A plan's step in a process of its own, for runtimes that cannot live in the host's environment.

The host needs numpy only. What runs in the child: :mod:`ravan_edge.plans.worker_serve`.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ravan_edge import errors
from ravan_edge.artifact.opening import Artifact
from ravan_edge.closing import Closing
from ravan_edge.errors import ArtifactError, MissingExtraError, RavanError, WorkerError
from ravan_edge.methods.layout import Vector
from ravan_edge.methods.method import HeadIndices
from ravan_edge.plans.child import Child
from ravan_edge.plans.frames import Frame
from ravan_edge.plans.step import Evaluation, RuntimeSettings, StepResult
from ravan_edge.plans.worker_serve import BATCH, INPUT, PROTOCOL, installed_version

__all__ = ["ANSWER_SECONDS", "WorkerStep"]

ANSWER_SECONDS = 3600.0
"""How long an answer may take. Only against a process that hangs: ending one that computes would end
each of its steps, and a batch of 8 x 512 tokens through a billion weights is 25 TFLOP, 20 minutes on
two slow cores, loading and packing the model not counted."""

_AGAIN = "the next step starts a new process; if it dies again, use smaller micro-batches"
_SLOW = (
    "the next step starts a new process; if it did not hang but is slow, use smaller micro-batches"
)
_KINDS: dict[str, type[RavanError]] = {name: getattr(errors, name) for name in errors.__all__}


class WorkerStep(Closing):
    """A plan of an artifact, run by another process; see :class:`ravan_edge.plans.step.Step`.

    The process is started here, so that what is missing shows up at once. If it dies, the step that
    it was in is lost (``WorkerError``), and the next one starts a new process.

    A step costs about 0.3 ms more than in this process (a tiny model on x86-64, 0.31 against 0.05 ms).

    Args:
        artifact: An opened artifact; the process opens it again by its folder.
        plan: The plan's name.
        settings: Threads and memory behaviour.
        python: The interpreter that has the runtime.
        module: Calls :func:`ravan_edge.plans.worker_serve.serve` when run with ``-m``.
        hint: The command that makes or mends the interpreter's environment.
        answer_seconds: A process that takes longer for one answer (a step, or opening the artifact) is
            killed, as if it had died; ``math.inf``: never.

    Raises:
        MissingExtraError: The process does not come up: something is not installed there.
        ArtifactError: The artifact has no such plan, or the runtime refuses it.
        RavanError: What else the process reports.
    """

    def __init__(
        self,
        artifact: Artifact,
        plan: str,
        settings: RuntimeSettings,
        *,
        python: str,
        module: str,
        hint: str | None = None,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        if plan not in artifact.manifest.plans:
            raise ArtifactError(
                f"no plan {plan!r}; found {', '.join(artifact.manifest.plans) or 'none'}",
                where=str(artifact.folder),
                hint=f"export it with --plans {plan}",
            )
        self._artifact = artifact
        self._plan = plan
        self._settings = settings
        self._python = python
        self._module = module
        self._hint = hint
        self._answer_seconds = answer_seconds
        self._running: dict[str, HeadIndices] = {}
        self._child: Child | None = None
        self._runtime = ""
        self._start()

    @property
    def process_id(self) -> int | None:
        """Of the process that runs it now."""
        return None if self._child is None else self._child.process_id

    @property
    def runtime(self) -> str:
        """Name and version of what runs there."""
        return self._runtime

    # -- the process ----------------------------------------------------------------------------

    def _start(self) -> Child:
        try:
            self._child = Child(
                self._python, self._module, self._settings.threads, self._answer_seconds
            )
        except OSError as error:
            raise MissingExtraError(
                f"the runtime of plan {self._plan!r} cannot be started: {error.strerror}",
                where=self._python,
                hint=self._hint,
            ) from error
        self._greet(self._child)
        opening = {
            "folder": str(self._artifact.folder.absolute()),
            "settings": dataclasses.asdict(self._settings),
        }
        try:
            opened = self._exchange(Frame("open", opening), "opened").fields
        except RavanError:
            self.close()
            raise
        self._runtime = f"{opened.get('runtime')} {opened.get('runtime_version')}"
        if self._running:
            self._exchange(Frame("use_heads", arrays=self._running), "done")
        return self._child

    def _greet(self, child: Child) -> None:
        """Check that the process is there and speaks as this one does."""
        message = None
        try:
            hello = child.ask(None)
            theirs = hello.fields.get("protocol"), hello.fields.get("ravan_edge")
            ours = PROTOCOL, installed_version("ravan-edge")
            if (
                hello.op != "hello"
                or theirs[0] != ours[0]
                or ("" not in (*theirs, *ours) and theirs != ours)
            ):
                message = f"has ravan-edge {theirs[1]} (messages {theirs[0]}), here is {ours[1]} ({ours[0]})"
        except TimeoutError as error:
            raise self._too_slow() from error
        except (EOFError, OSError):
            message = "ended before it could say anything"
        except ValueError as error:
            message = f"answers nonsense: {error}"
        except BaseException:
            self._drop()
            raise
        if message is not None:
            _, tail = child.died()
            self._child = None
            last = tail.splitlines()[-1] if tail else ""
            raise MissingExtraError(
                f"the runtime's process of plan {self._plan!r} {message}"
                + (f": {last}" if last else ""),
                where=self._python,
                hint=self._hint,
            )

    def _drop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end(kill=True)

    def _exchange(self, frame: Frame, expected: str) -> Frame:
        """The answer of the kind expected.

        Raises:
            WorkerError: The process died, took too long, or answered something else.
            RavanError: What it raised.
        """
        child = self._child
        if child is None:
            child = self._start()
        try:
            answer = child.ask(frame)
        except TimeoutError as error:
            raise self._too_slow() from error
        except (EOFError, OSError):
            self._died(child)
        except ValueError as error:
            self._drop()
            raise self._error(f"answers nonsense: {error}") from error
        except BaseException:  # its next answer would be to the wrong question
            self._drop()
            raise
        if answer.op == "error":
            raise self._raised(answer.fields)
        if answer.op != expected:
            self._drop()
            raise self._error(f"answers {answer.op!r} to {frame.op!r}")
        return answer

    def _died(self, child: Child) -> NoReturn:
        code, tail = child.died()
        self._child = None
        how = f"ended by itself with code {code}"
        if code < 0:
            how = f"was ended by {_signal_name(-code)}"
        if code == -getattr(signal, "SIGKILL", 9):
            how += ": by somebody, or because memory ran out"
        raise self._error(how + (f"; its last words: {tail[-500:]!r}" if tail else ""))

    def _too_slow(self) -> WorkerError:
        self._drop()
        seconds = self._answer_seconds
        return self._error(f"gave no answer for {seconds:g} s and was ended", hint=_SLOW)

    def _error(self, what: str, hint: str = _AGAIN) -> WorkerError:
        return WorkerError(f"the runtime's process of plan {self._plan!r} {what}", hint=hint)

    def _raised(self, fields: Mapping[str, Any]) -> RavanError:
        kind = _KINDS.get(str(fields.get("kind")))
        message = str(fields.get("message"))
        where, hint = (
            None if (text := fields.get(key)) is None else str(text) for key in ("where", "hint")
        )
        if kind is None:
            return self._error(f"failed: {message}")
        return kind(message, where=where, hint=hint)

    # -- the step -------------------------------------------------------------------------------

    def use_heads(self, running: Mapping[str, HeadIndices]) -> None:
        """Run these heads of each layer from now on."""
        changed = {
            layer: np.array(heads)
            for layer, heads in running.items()
            if (known := self._running.get(layer)) is None or not np.array_equal(known, heads)
        }
        if not changed:
            return
        if self._child is not None:  # a new process is told all of them when it starts
            self._exchange(Frame("use_heads", arrays=changed), "done")
        self._running.update(changed)

    def _ask(
        self,
        op: str,
        expected: str,
        batch: Mapping[str, NDArray[Any]],
        trainables: Mapping[str, Vector],
    ) -> tuple[float, int, dict[str, float], dict[str, NDArray[Any]]]:
        arrays = {f"{BATCH}{name}": array for name, array in batch.items()}
        arrays |= {f"{INPUT}{name}": array for name, array in trainables.items()}
        answer = self._exchange(Frame(op, arrays=arrays), expected)
        try:
            sums = answer.fields
            metrics = {str(name): float(item) for name, item in sums["metrics"].items()}
            return float(sums["loss_sum"]), int(sums["count"]), metrics, dict(answer.arrays)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._drop()
            raise self._error(f"answers nonsense: {error}") from error

    def _odd(
        self, what: str, found: Mapping[str, object], expected: Mapping[str, object]
    ) -> NoReturn:
        """What the plan's files made does not fit the manifest."""
        different = sorted(set(found.items()) ^ set(expected.items()), key=repr)[:2]
        self._drop()
        raise ArtifactError(
            f"plan {self._plan!r} returns other {what} than the manifest says: {different}",
            where=str(self._artifact.folder),
            hint="export the artifact again",
        )

    def train(
        self, batch: Mapping[str, NDArray[Any]], trainables: Mapping[str, Vector]
    ) -> StepResult:
        """Loss sum, count, metrics and gradients of the sum for one batch."""
        loss, count, metrics, gradients = self._ask("train", "trained", batch, trainables)
        expected = {name: np.shape(array) for name, array in trainables.items()}
        found = {name: array.shape for name, array in gradients.items()}
        if found != expected or any(array.dtype != np.float32 for array in gradients.values()):
            self._odd("gradients", found, expected)
        return StepResult(loss, count, metrics, gradients)

    def evaluate(
        self, batch: Mapping[str, NDArray[Any]], trainables: Mapping[str, Vector]
    ) -> Evaluation:
        """Loss sum, count, metrics and logits of one batch."""
        loss, count, metrics, arrays = self._ask("evaluate", "evaluated", batch, trainables)
        logits = arrays.get("logits")
        manifest = self._artifact.manifest
        if manifest.labels:
            expected = {"logits": (*np.shape(batch["labels"]), len(manifest.labels))}
            found = {name: array.shape for name, array in arrays.items()}
            if found != expected or logits is None or logits.dtype != np.float32:
                self._odd("logits", found, expected)
        return Evaluation(loss, count, metrics, logits)

    def close(self) -> None:
        """End the process."""
        child, self._child = self._child, None
        if child is not None:
            child.end(kill=False)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
