"""Scores of new versions on rows that the server has, in a process of their own.

The process is ``ravan eval``: the server itself never loads a runtime, and whatever the data or the
runtime do, it goes on. While versions come quicker than they can be scored, only the latest is. Of several
servers of one run one scores at a time.
"""

from __future__ import annotations

import json
import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from ravan_edge.artifact import Artifact
from ravan_edge.protocol import Refusal
from ravan_server.events import Event, log_event
from ravan_server.meters import Meters
from ravan_server.store import VersionRow

__all__ = ["Evaluator"]

_log = logging.getLogger(__name__)

_TURN_SECONDS = 1.0
_SCORES = ("accuracy", "loss", "count", "perplexity")


class Evaluator:
    """Scores versions, one after the other.

    Args:
        artifact: What devices train.
        options: How ``ravan eval`` is to read the rows: ``--data FILE`` and the like.
        path: Where the heads file of a version is; None: gone.
        on_scores: Told a version's number and its scores as JSON.
        meters: What counts evaluations.
        only_one: Whether it is this server's turn, as long as its block lasts.
        is_scored: Whether a version was scored meanwhile.
    """

    def __init__(
        self,
        artifact: Artifact,
        options: Sequence[str],
        path: Callable[[str], Path | None],
        on_scores: Callable[[int, str], None],
        meters: Meters,
        only_one: Callable[[], AbstractContextManager[bool]] = lambda: nullcontext(True),
        is_scored: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._only_one = only_one
        self._is_scored = is_scored
        self._artifact = artifact
        self._options = options
        self._path = path
        self._on_scores = on_scores
        self._meters = meters
        self._waiting: queue.SimpleQueue[VersionRow | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[str] | None = None
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="evaluation", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """End, and leave what is not scored unscored."""
        with self._lock:
            self._ending.set()
            if self._process is not None:
                self._process.kill()
        self._waiting.put(None)
        self._thread.join()

    def add(self, version: VersionRow) -> None:
        """Score this version, unless a newer one comes first."""
        self._waiting.put(version)

    def _run(self) -> None:
        while (version := self._latest()) is not None:
            try:
                done = self._score(version)
            except Exception:  # noqa: BLE001  (the next version may be scored)
                self._failed("version %(version)d could not be evaluated", version, trace=True)
                continue
            if not done and not self._ending.wait(_TURN_SECONDS):
                self._waiting.put(version)  # whoever scores it may be killed before it has

    def _score(self, version: VersionRow) -> bool:
        """Whether nothing is left to do for it."""
        with self._only_one() as mine:
            if mine and not self._is_scored(version.version):
                path = self._path(version.heads)
                if path is not None:
                    self._evaluate(version, path)
        return mine

    def _latest(self) -> VersionRow | None:
        version = self._waiting.get()
        while version is not None and not self._waiting.empty():
            following = self._waiting.get()
            if following is None or following.version > version.version:
                version = following
        return version

    def _evaluate(self, version: VersionRow, path: Path) -> None:
        command = [sys.executable, "-m", "ravan_edge.cli.main", "eval", str(self._artifact.folder)]
        command += ["--heads", str(path), *self._options, "--json"]
        began = time.perf_counter()
        with self._lock:
            if self._ending.is_set():
                return
            self._process = subprocess.Popen(  # noqa: S603  (our own command, our own words)
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        output, complaints = self._process.communicate()
        if self._ending.is_set():
            return
        if self._process.returncode:
            last = complaints.strip().rpartition("\n")[2]
            self._failed("version %(version)d could not be evaluated: %(error)s", version, last)
            return
        self._meters.evaluation_seconds.observe(time.perf_counter() - began)
        document = json.loads(output)
        scores = {name: document[name] for name in _SCORES if name in document}
        try:
            self._on_scores(version.version, json.dumps(scores))
        except Refusal as refusal:
            text = "the scores of version %(version)d are lost: %(error)s"
            self._failed(text, version, str(refusal))
            return
        log_event(
            _log,
            logging.INFO,
            Event.VERSION_SCORED,
            "version %(version)d: accuracy %(percent).2f %%, loss %(loss).4f on %(count)d",
            version=version.version,
            percent=100 * scores["accuracy"],
            loss=scores["loss"],
            count=scores["count"],
        )

    def _failed(
        self, text: str, version: VersionRow, error: str | None = None, *, trace: bool = False
    ) -> None:
        self._meters.failed_evaluations.inc()
        number = version.version
        log_event(
            _log,
            logging.ERROR,
            Event.EVALUATION_FAILED,
            text,
            trace=trace,
            version=number,
            error=error,
        )
