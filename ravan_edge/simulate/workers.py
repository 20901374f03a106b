"""Worker processes: start, hand out work in chunks, notice when one dies.

Not ``multiprocessing``: its spawned children import the program's main module again (the whole
command line), need a guarded main module in a user's script, and its pools hang when a worker is
killed. Here a child imports just what it needs, and a torn pipe is an error at once.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from ravan_edge.closing import Closing
from ravan_edge.errors import MemoryLimitError, RavanError, StorageError
from ravan_edge.merge import Gathered, combined
from ravan_edge.simulate.channel import receive, send
from ravan_edge.simulate.messages import (
    BatchScores,
    Collect,
    DeviceOutcome,
    EvaluateBatches,
    Failure,
    OpenArtifact,
    OpenData,
    TrainDevices,
    UseHeads,
)

__all__ = ["WorkerPool", "chunk_sizes"]

_LARGEST_CHUNK = 64
_POLL_SECONDS = 0.5
_CODE = "from ravan_edge.simulate.worker import main; main()"
_RESUME = "type the same command again, it goes on from the last finished round"

_GONE = object()


def chunk_sizes(tasks: int, workers: int) -> Iterator[int]:
    """Sizes of the chunks ``tasks`` are handed out in: large first, small at the end.

    Half of what is left, shared out evenly: few messages, and nobody waits long at the end.

    >>> list(chunk_sizes(20, 2))
    [5, 4, 3, 2, 2, 1, 1, 1, 1]
    """
    while tasks:
        size = min(-(-tasks // (2 * workers)), _LARGEST_CHUNK)
        yield size
        tasks -= size


class _Process:
    """One worker with the thread that reads its answers."""

    def __init__(self, number: int, threads: int, answers: queue.SimpleQueue[Any]) -> None:
        environment = dict(os.environ)
        # One number of threads, whatever the caller's environment: it can change the last bits.
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[name] = str(threads)
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path)  # noqa: PTH100
        self.number = number
        self.process = subprocess.Popen(  # noqa: S603  (our own interpreter and code)
            [sys.executable, "-P", "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self.process.stdin is not None  # noqa: S101
        assert self.process.stdout is not None  # noqa: S101
        self._requests: BinaryIO = self.process.stdin  # type: ignore[assignment]
        self._pipe: BinaryIO = self.process.stdout  # type: ignore[assignment]
        self._reader = threading.Thread(target=self._read, args=(answers,), daemon=True)
        self._reader.start()

    def _read(self, answers: queue.SimpleQueue[Any]) -> None:
        try:
            while True:
                answers.put((self.number, receive(self._pipe)))
        except (EOFError, OSError, ValueError):
            answers.put((self.number, _GONE))

    def send(self, message: object) -> None:
        # A torn pipe shows up in the reader, which knows why.
        with contextlib.suppress(OSError):
            send(self._requests, message)

    def stop(self) -> None:
        self.process.kill()  # it keeps nothing that could be lost
        self.process.wait()
        with contextlib.suppress(OSError):
            self._requests.close()
        self._reader.join()
        self._pipe.close()


class WorkerPool(Closing):
    """Worker processes of one run. Use it in a ``with`` statement.

    The processes start at once and load their libraries while the caller still reads its data.

    Args:
        workers: How many, at least 1.
        threads: Threads inside one step of each.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._processes: list[_Process] = []
        try:
            for number in range(workers):
                self._processes.append(_Process(number, threads, self._answers))
        except OSError as error:
            self.close()
            raise StorageError(
                f"cannot start a worker process: {error.strerror}", hint="use fewer --workers"
            ) from error

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Of the workers."""
        return tuple(process.process.pid for process in self._processes)

    def open(self, message: OpenArtifact | OpenData | UseHeads) -> None:
        """Tell every worker something that has no answer."""
        for process in self._processes:
            process.send(message)

    def train(
        self, devices: Sequence[int], first: Sequence[bool]
    ) -> tuple[list[DeviceOutcome], Gathered]:
        """One local round of each device from the current heads.

        Args:
            devices: Their numbers.
            first: For each, whether it never took part before.

        Returns:
            The outcomes in ascending order, and the differences of all merged devices, or their sum.

        Raises:
            RavanError: What a worker raised, or that one died.
        """
        chunks = []
        start = 0
        for size in chunk_sizes(len(devices), len(self._processes)):
            part = slice(start, start + size)
            chunks.append(TrainDevices(list(devices[part]), list(first[part])))
            start += size
        outcomes: list[DeviceOutcome] = []
        gathered: list[Gathered] = []

        def take(answer: list[DeviceOutcome] | Gathered) -> None:
            if isinstance(answer, list):
                outcomes.extend(answer)
            else:
                gathered.append(answer)

        self._hand_out(chunks, take, last=Collect())
        # Neither integer sums nor robust rules depend on the order of arrival.
        outcomes.sort()
        return outcomes, combined(gathered)

    def evaluate(self, name: str, batches: int) -> list[BatchScores]:
        """Scores of all batches of a set, in any order."""
        chunks = []
        start = 0
        for size in chunk_sizes(batches, len(self._processes)):
            chunks.append(EvaluateBatches(name, list(range(start, start + size))))
            start += size
        scores: list[BatchScores] = []
        self._hand_out(chunks, scores.append)
        return scores

    def _hand_out(
        self,
        chunks: Sequence[object],
        take: Callable[[Any], object],
        last: object | None = None,
    ) -> None:
        """Give every worker chunks until all are answered.

        While many are left a worker has a second one waiting, so that it need not wait for us; near
        the end it has one, so that nobody holds what somebody idle could do.

        Args:
            chunks: What to do, large ones first.
            take: Called with each answer.
            last: What to tell a worker as soon as there is nothing more for it.
        """
        waiting = deque(chunks)
        open_answers = [0] * len(self._processes)
        told_last = [last is None] * len(self._processes)

        def feed(number: int) -> None:
            plenty = len(waiting) > 2 * len(self._processes)
            while waiting and open_answers[number] < (2 if plenty else 1):
                self._processes[number].send(waiting.popleft())
                open_answers[number] += 1
            if not waiting and not told_last[number]:
                self._processes[number].send(last)
                open_answers[number] += 1
                told_last[number] = True

        for number in range(len(self._processes)):
            feed(number)
        while any(open_answers) or not all(told_last):
            number, answer = self._answer()
            open_answers[number] -= 1
            feed(number)
            take(answer)

    def _answer(self) -> tuple[int, Any]:
        while True:
            try:
                # With a timeout, so that Ctrl-C gets through where a plain wait is not interrupted.
                number, answer = self._answers.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if answer is _GONE:
                raise self._death(number)
            if isinstance(answer, Failure):
                answer.error.add_note(answer.trace)
                if isinstance(answer.error, RavanError):
                    raise answer.error
                raise _unexpected(answer.error) from answer.error
            return number, answer

    def _death(self, number: int) -> RavanError:
        code = self._processes[number].process.wait()
        if code == -getattr(signal, "SIGKILL", 9):
            return StorageError(
                "a worker process was killed: by somebody, or because memory ran out",
                hint=f"{_RESUME}; fewer --workers need less memory",
            )
        return RavanError(f"a worker process ended by itself with code {code}", hint=_RESUME)

    def close(self) -> None:
        """End all workers."""
        for process in self._processes:
            process.stop()
        self._processes.clear()


def _unexpected(error: BaseException) -> RavanError:
    if isinstance(error, MemoryError):
        return MemoryLimitError("a worker process ran out of memory", hint="use fewer --workers")
    return RavanError(
        f"a worker process failed: {type(error).__name__}: {error}",
        hint="this is a bug of ours; please report it with what --debug prints",
    )
