"""Showing a run to a person: a bar on a terminal, one line a round in a pipe. Always on stderr."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from ravan_edge.simulate.events import Notice, Resumed, RoundDone, Stage
from ravan_edge.simulate.sweep import SweepRun

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["RoundDisplay", "round_line"]


def round_line(event: RoundDone) -> str:
    """A round in one line.

    >>> round_line(RoundDone(3, 30, 2, 3, 0.5, {}, 61.0, 1.25))
    'round 3/30  loss 0.5000  merged 2 of 3  simulated 61.0 s  took 1.25 s'
    """
    parts = [f"round {event.round}/{event.rounds}"]
    if event.loss is not None:
        parts.append(f"loss {event.loss:.4f}")
    parts += _accuracies(event)
    if event.merged < event.sampled:
        parts.append(f"merged {event.merged} of {event.sampled}")
    if event.staleness is not None:
        parts.append(f"staleness {event.staleness:.1f}")
    parts.append(f"simulated {event.simulated_seconds:.1f} s")
    parts.append(f"took {event.seconds:.2f} s")
    return "  ".join(parts)


def _accuracies(event: RoundDone) -> list[str]:
    return [f"{name} {100 * scores.accuracy:.1f} %" for name, scores in event.scores.items()]


class RoundDisplay:
    """Listens to a run; use it in a ``with`` statement.

    Args:
        stream: Where to write; None: stderr.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._prefix = ""

    def __enter__(self) -> Self:
        if self._stream.isatty():
            # rich takes a while to import, and pipes never need it
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(file=self._stream),
                transient=True,
            )
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, event: SweepRun | Notice | Stage | Resumed | RoundDone) -> None:
        """Show an event."""
        if isinstance(event, SweepRun):
            self._prefix = f"[{event.number}/{event.total}] {event.name}  "
        if isinstance(event, Notice):
            self._say(f"note: {event.text}")
        elif self._progress is not None:
            self._show(self._progress, event)
        else:
            self._write(event)

    def _say(self, text: str) -> None:
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False)
        else:
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def _write(self, event: SweepRun | Stage | Resumed | RoundDone) -> None:
        text = None
        if isinstance(event, RoundDone):
            text = round_line(event)
        elif isinstance(event, Resumed) and event.round:
            text = f"going on after round {event.round}/{event.rounds}"
        if text is not None:
            self._stream.write(f"{self._prefix}{text}\n")
            self._stream.flush()

    def _show(self, progress: Progress, event: SweepRun | Stage | Resumed | RoundDone) -> None:
        from rich.markup import escape

        prefix = escape(self._prefix)
        if isinstance(event, Stage):
            if self._task is None:
                self._task = progress.add_task("", note="")
            progress.update(
                self._task,
                description=f"{prefix}{event.name}",
                completed=event.done,
                total=event.total,
                note="",
            )
        elif isinstance(event, Resumed):
            if self._task is not None:
                progress.remove_task(self._task)
            # a new task: time left counts rounds of this process only
            self._task = progress.add_task(
                f"{prefix}rounds", total=event.rounds, completed=event.round, note=""
            )
        elif isinstance(event, RoundDone) and self._task is not None:
            notes = [] if event.loss is None else [f"loss {event.loss:.4f}"]
            notes += _accuracies(event)
            progress.update(self._task, completed=event.round, note="  ".join(notes) or None)
