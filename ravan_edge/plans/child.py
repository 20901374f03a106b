"""The process that a plan's runtime lives in, as its host sees it: started, asked, ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from ravan_edge.plans.frames import Frame, read_frame, write_frame

__all__ = ["Child", "child_environment"]

_TAIL_BYTES = 4000
_CLOSING_SECONDS = 5.0
_PACKAGE_FOLDERS = {"site-packages", "dist-packages"}


def child_environment(python: str, threads: int) -> dict[str, str]:
    """The child's environment: our own packages for our own interpreter, else only our code."""
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = str(threads)
    environment.pop("PYTHONPATH", None)
    code = Path(__file__).absolute().parents[2]
    if python == sys.executable:
        paths = [os.path.abspath(path) for path in sys.path]  # noqa: PTH100  ("" is the folder)
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    elif code.name not in _PACKAGE_FOLDERS:
        # A checkout: the same code on both sides. An installed copy stays where it is, or all of
        # this environment's packages would come with it.
        environment["PYTHONPATH"] = str(code)
    return environment


class Child:
    """One process with the end of what it wrote to standard error.

    Args:
        python: The interpreter.
        module: What it runs.
        threads: Of the libraries in it.
        answer_seconds: It is killed when an answer takes longer. Time in which this process itself
            was stopped, or the machine asleep, does not count.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, python: str, module: str, threads: int, answer_seconds: float) -> None:
        self._process = subprocess.Popen(  # noqa: S603  (an interpreter of ours with our own code)
            [python, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(python, threads),
        )
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        self._requests: BinaryIO = self._process.stdin  # type: ignore[assignment]
        self._answers: BinaryIO = self._process.stdout  # type: ignore[assignment]
        self._tail = b""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._answer_seconds = answer_seconds
        self._calls = 0
        self._waiting = False
        self._late = False
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def process_id(self) -> int:
        """Of the process."""
        return self._process.pid

    def _listen(self) -> None:
        pipe = self._process.stderr
        assert pipe is not None  # noqa: S101
        while part := pipe.read1(_TAIL_BYTES):  # type: ignore[attr-defined]
            self._tail = (self._tail + part)[-_TAIL_BYTES:]
        pipe.close()

    def _watch(self) -> None:
        """Kill it when one answer takes too long; whoever waits for that finds its pipe closed.

        Counts its own pauses instead of asking a clock, which goes on while a host is stopped.
        """
        pause = min(1.0, self._answer_seconds / 10)
        call, pauses = 0, 0
        while not self._ended.wait(pause):
            pauses = pauses + 1 if self._waiting and call == self._calls else 0
            call = self._calls
            if pauses * pause >= self._answer_seconds:
                self._late = True
                self._process.kill()
                return

    def ask(self, frame: Frame | None) -> Frame:
        """The answer to a message; None waits for what the child says by itself.

        Raises:
            EOFError: It died.
            TimeoutError: The answer took too long, and the process was killed.
            ValueError: It answered nonsense.
        """
        self._calls += 1
        self._waiting = True
        try:
            if frame is not None:
                # A torn pipe shows up when reading: perhaps it still said why.
                with contextlib.suppress(OSError):
                    write_frame(self._requests, frame)
            return read_frame(self._answers)
        except (EOFError, OSError) as error:
            if self._late:
                raise TimeoutError(f"no answer for {self._answer_seconds:g} s") from error
            raise
        finally:
            self._waiting = False

    def end(self, *, kill: bool) -> tuple[int, str]:
        """End it: its exit code and the last lines it wrote to standard error."""
        self._ended.set()
        if kill:
            self._process.kill()
        with contextlib.suppress(OSError):
            self._requests.close()
        try:
            code = self._process.wait(_CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._listener.join(_CLOSING_SECONDS)
        self._answers.close()
        return code, self._tail.decode("utf-8", "replace").strip()

    def died(self) -> tuple[int, str]:
        """How it ended, given that its pipe is closed: it may still be on its way out."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSING_SECONDS)
        return self.end(kill=True)
