"""A process of a benchmark that merges whenever it is told to, and says how long that took."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

__all__ = ["MergingProcess"]

ROOT = Path(__file__).resolve().parent.parent


class MergingProcess:
    """The process; it is ready once this returns, and ends with the stack.

    Args:
        words: What Python runs in it: it says a line when it is ready, and to each line that it reads two
            numbers, the seconds of a merge.
        stack: It ends with this.
        environment: Variables besides those that are there.
    """

    def __init__(
        self, words: Sequence[str], stack: ExitStack, environment: Mapping[str, str] | None = None
    ) -> None:
        self.process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
            )
        )
        self._answer()

    def merge(self, what: str) -> tuple[float, float]:
        """Seconds that a merge took, by the clock and of processors."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        clock, processor = self._answer().split()
        return float(clock), float(processor)

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side ended with {self.process.wait()}")
        return line
