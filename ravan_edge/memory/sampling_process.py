"""The outside process of :class:`ravan_edge.memory.PeakSampler`. Run as a script, never imported.

Only the standard library, so that it starts in milliseconds and is small. It samples until its
input ends; one command per line on stdin, one JSON answer per line on stdout::

    add PID        forget PID        reset PID        read PID
"""

import contextlib
import json
import os
import select
import sys
import time

_KB = 1024


class _LinuxProcess:
    """``/proc/PID/status``, kept open: one system call per sample, and no other process's pid later."""

    def __init__(self, pid: int) -> None:
        self._file = os.open(f"/proc/{pid}/status", os.O_RDONLY)

    def sample(self) -> tuple[int, int]:
        """Bytes of (RssAnon + VmSwap, RssFile)."""
        content = os.pread(self._file, 8192, 0)
        found = [0, 0, 0]
        for place, name in enumerate((b"\nRssAnon:", b"\nVmSwap:", b"\nRssFile:")):
            begin = content.find(name)
            if begin < 0:  # a zombie has no memory any more
                raise ProcessLookupError
            begin += len(name)
            found[place] = int(content[begin : content.index(b"kB", begin)])
        return (found[0] + found[1]) * _KB, found[2] * _KB

    def close(self) -> None:
        os.close(self._file)


class _OtherProcess:
    """macOS and Windows: psutil's unique set size; mapped pages cannot be told apart."""

    def __init__(self, pid: int) -> None:
        import psutil

        try:
            self._process = psutil.Process(pid)
        except psutil.Error as error:
            raise ProcessLookupError(str(error)) from error
        self._gone = psutil.Error

    def sample(self) -> tuple[int, int]:
        """Bytes of (USS, 0)."""
        try:
            return int(self._process.memory_full_info().uss), 0
        except self._gone as error:
            raise ProcessLookupError(str(error)) from error

    def close(self) -> None:
        pass


class _Peak:
    """One watched process: its highest samples."""

    def __init__(self, pid: int) -> None:
        linux = os.path.exists("/proc/self/status")  # noqa: PTH110  (pathlib takes long to import)
        self.process = _LinuxProcess(pid) if linux else _OtherProcess(pid)
        self.alive = True
        self.reset()
        self.first = self.anonymous

    def reset(self) -> None:
        self.anonymous = self.mapped = self.samples = 0
        self.began = self.last = time.monotonic()
        self.sample()

    def sample(self) -> None:
        if not self.alive:
            return
        try:
            anonymous, mapped = self.process.sample()
        except OSError:
            self.alive = False
            return
        self.samples += 1
        self.last = time.monotonic()
        self.anonymous = max(self.anonymous, anonymous)
        self.mapped = max(self.mapped, mapped)

    def answer(self) -> dict[str, object]:
        return {
            "anonymous": self.anonymous,
            "mapped": self.mapped,
            "first": self.first,
            "samples": self.samples,
            "seconds": self.last - self.began,
            "alive": self.alive,
        }


def _command(line: str, watched: dict[int, _Peak]) -> dict[str, object]:
    verb, _, number = line.partition(" ")
    pid = int(number)
    try:
        if verb == "add":
            watched[pid] = _Peak(pid)
        elif verb == "forget":
            watched.pop(pid).process.close()
            return {}
        elif verb == "reset":
            watched[pid].reset()
        watched[pid].sample()
        return watched[pid].answer()
    except (OSError, KeyError) as error:
        return {"error": str(error) or type(error).__name__}


def _wait_readable(seconds: float) -> bool:
    if os.name == "nt":  # select takes no pipes there: a thread hands lines over
        time.sleep(seconds)
        return bool(_LINES)
    return bool(select.select([sys.stdin], [], [], seconds)[0])


_LINES: list[str] = []


def _read_on_windows() -> None:
    for line in sys.stdin:
        _LINES.append(line)  # noqa: PERF402  (the other thread must see each as it comes)
    _LINES.append("")


def _next_line() -> str:
    return _LINES.pop(0) if os.name == "nt" else sys.stdin.readline()


def main(interval_seconds: float) -> None:
    """Sample until stdin ends."""
    if os.name == "nt":
        import threading

        threading.Thread(target=_read_on_windows, daemon=True).start()
    watched: dict[int, _Peak] = {}
    while True:
        if _wait_readable(interval_seconds if watched else 1.0):
            line = _next_line()
            if not line:
                return
            sys.stdout.write(json.dumps(_command(line.strip(), watched)) + "\n")
            sys.stdout.flush()
        for peak in watched.values():
            peak.sample()


if __name__ == "__main__":
    # Ctrl-C reaches the whole group; the watched process ends as it likes.
    with contextlib.suppress(KeyboardInterrupt):
        main(float(sys.argv[1]))
