"""Peak memory of processes, measured from outside at 1 kHz or more.

What counts is anonymous memory and swap (RssAnon + VmSwap): what a process owns. Clean pages of
mapped files, such as the artifact's base, can be dropped by the system and are reported apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ravan_edge.errors import StorageError

__all__ = ["MemoryPeak", "PeakSampler", "cgroup_peak_bytes", "current_anonymous_bytes"]

_SCRIPT = Path(__file__).with_name("sampling_process.py")


@dataclass(frozen=True, slots=True)
class MemoryPeak:
    """What was seen of one process.

    Attributes:
        anonymous_bytes: The highest RssAnon + VmSwap (macOS, Windows: unique set size).
        mapped_bytes: The highest RssFile: mapped pages that were in memory (elsewhere 0).
        first_bytes: RssAnon + VmSwap when watching began: the idle process.
        samples: How many samples were taken.
        seconds: Time from the first to the last of them.
        alive: Whether the process still ran at the last sample.
    """

    anonymous_bytes: int
    mapped_bytes: int
    first_bytes: int
    samples: int
    seconds: float
    alive: bool

    @property
    def above_idle_bytes(self) -> int:
        """The peak above the first sample."""
        return self.anonymous_bytes - self.first_bytes


class PeakSampler:
    """Watches processes from a small process of its own.

    >>> with PeakSampler([os.getpid()]) as sampler:
    ...     content = bytearray(b"x") * 40_000_000
    ...     sampler.peak(os.getpid()).anonymous_bytes > len(content)
    True

    Args:
        pids: Processes to watch from the start.
        interval_seconds: The pause between two samples.

    Raises:
        StorageError: A process is not there, or may not be looked at.
    """

    def __init__(self, pids: Iterable[int] = (), *, interval_seconds: float = 0.0007) -> None:
        self._pids = tuple(pids)
        self._interval_seconds = interval_seconds
        self._process: subprocess.Popen[str] | None = None
        self._children: set[int] = set()

    def __enter__(self) -> Self:
        # On Linux nothing but the standard library is needed, so `site` is not even run (-S).
        flags = ["-I", "-S"] if Path("/proc/self/status").exists() else ["-I"]
        self._process = subprocess.Popen(  # noqa: S603  (our own script)
            [sys.executable, *flags, str(_SCRIPT), str(self._interval_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            for pid in self._pids:
                self.add(pid)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the sampling process."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            if process.stdin is not None:
                process.stdin.close()
        except BrokenPipeError:  # it has ended before us
            pass
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def add(self, pid: int) -> None:
        """Watch one more process. Back after its first sample.

        Raises:
            StorageError: It is not there, or may not be looked at.
        """
        self._ask("add", pid)

    def forget(self, pid: int) -> None:
        """Watch a process no longer."""
        self._ask("forget", pid)

    def reset(self, pid: int) -> None:
        """Begin a new peak for a process that is watched already; ``first_bytes`` stays."""
        self._ask("reset", pid)

    def peak(self, pid: int) -> MemoryPeak:
        """What was seen so far; a process that has ended keeps its peak.

        Raises:
            StorageError: It is not watched.
        """
        answer = self._ask("read", pid)
        return MemoryPeak(
            anonymous_bytes=int(answer["anonymous"]),
            mapped_bytes=int(answer["mapped"]),
            first_bytes=int(answer["first"]),
            samples=int(answer["samples"]),
            seconds=float(answer["seconds"]),
            alive=bool(answer["alive"]),
        )

    def peak_bytes(self, pid: int) -> int:
        """The highest RssAnon + VmSwap of a process so far."""
        return self.peak(pid).anonymous_bytes

    def family_peak_bytes(self, pid: int) -> int:
        """The peaks of a process and of those that it runs now, added up.

        A plan may compute in a process of its own. Such a process is watched from the first call after
        its start, so call this early once.
        """
        import psutil

        own = None if self._process is None else self._process.pid
        total = self.peak_bytes(pid)
        try:
            children = [child.pid for child in psutil.Process(pid).children() if child.pid != own]
        except psutil.Error:  # it has just ended
            return total
        for child in children:
            with contextlib.suppress(StorageError):  # a child that has just ended
                if child not in self._children:
                    self.add(child)
                    self._children.add(child)
                total += self.peak_bytes(child)
        return total

    def _ask(self, verb: str, pid: int) -> dict[str, float]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("a PeakSampler works inside its `with` block only")
        try:
            process.stdin.write(f"{verb} {pid}\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": "the sampling process has ended"}
        if "error" in answer:
            raise StorageError(
                f"cannot measure the memory of process {pid}: {answer['error']}",
                hint="watch a process that runs, and that is yours",
            )
        return dict(answer)


def current_anonymous_bytes() -> int:
    """RssAnon + VmSwap of this process now (macOS, Windows: unique set size)."""
    try:
        status = Path("/proc/self/status").read_text("ascii", errors="replace")
    except OSError:
        import psutil

        return int(psutil.Process(os.getpid()).memory_full_info().uss)
    values = dict(line.split(":", 1) for line in status.splitlines())
    return sum(int(values[name].split()[0]) * 1024 for name in ("RssAnon", "VmSwap"))


def cgroup_peak_bytes() -> int | None:
    """``memory.peak`` of this process's cgroup (version 2); None where there is none.

    It counts every process of the group and its page cache, since the group was made.
    """
    try:
        groups = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
        path = next(line[3:] for line in groups if line.startswith("0::"))
        return int(Path(f"/sys/fs/cgroup{path}/memory.peak").read_text("ascii"))
    except (OSError, StopIteration, ValueError):
        return None
