"""What the server does by itself: ends attempts at their deadline, merges, forgets old versions.

Where several processes serve a run, each of them does so: what it does to the store is one operation that
looks first, and merging, which takes long, is what one of them does at a time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ravan_edge.errors import RavanError
from ravan_edge.protocol import Refusal
from ravan_server.artifact_signature import ExpiryWatch
from ravan_server.events import Event, log_event
from ravan_server.group_commit import GroupCommit
from ravan_server.merging import Merger
from ravan_server.operations import forget_old, record_merge, turn
from ravan_server.parts import Parts
from ravan_server.rounds import AttemptState
from ravan_server.store import MERGING
from ravan_server.view import View

__all__ = ["Housekeeper"]

_log = logging.getLogger(__name__)

_TICK_SECONDS = 0.25
_COPIES_EVERY = 20
"""Turns between two looks at copies of blobs, five seconds at most: who made a version forgets old ones a
moment later, and this process may come between."""


class Housekeeper:
    """Looks at the clock and at the latest attempt, several times a second.

    Args:
        parts: The run.
        writer: Through which everything is written.
        merger: Makes versions.
        view: The latest view.
        look: Takes over what other processes wrote.
        expiry: Of the artifact's signature.
        lasting: Blobs of which each process keeps its copy.
    """

    def __init__(
        self,
        parts: Parts,
        writer: GroupCommit,
        merger: Merger,
        view: Callable[[], View],
        look: Callable[[], None],
        expiry: ExpiryWatch,
        lasting: frozenset[str] = frozenset(),
    ) -> None:
        self._parts = parts
        self._writer = writer
        self._merger = merger
        self._view = view
        self._look = look
        self._expiry = expiry
        self._lasting = lasting
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._turning = threading.Lock()
        self._untidied = view().attempt.id  # of those before, recovery left nothing
        self._turns = 0
        self._thread = threading.Thread(target=self._run, name="rounds", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what was begun, and end."""
        self._ending.set()
        self._wake.set()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    def turn(self) -> None:
        """One look: ends an attempt whose deadline has passed, merges one that is closed.

        Raises:
            Refusal: The store could not be written.
            RavanError: A merge failed; nothing is lost, it is tried again.
        """
        with self._turning:
            parts = self._parts
            self._expiry.look(parts.wall_clock())
            parts.store.hold()
            self._look()
            self._end_attempt()
            if self._view().attempt.state is AttemptState.CLOSED:
                with parts.store.only_one(MERGING) as mine:
                    self._look()  # another one may have finished it a moment ago
                    if mine and self._view().attempt.state is AttemptState.CLOSED:
                        self._merge()
            self._tidy()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._wake.wait(_TICK_SECONDS)
            self._wake.clear()
            try:
                self.turn()
            except (RavanError, Refusal) as error:
                self._trouble("%(error)s; trying again in %(retry_seconds)g s", str(error))
            except Exception:  # noqa: BLE001  (a server whose rounds stand still helps nobody)
                self._trouble("the rounds met a bug; trying again in %(retry_seconds)g s")

    def _trouble(self, text: str, error: str | None = None) -> None:
        """Say what failed, and wait; without an ``error`` it is a bug, and its trace is shown."""
        wait = self._parts.retry_seconds
        self._parts.meters.troubles.inc()
        log_event(
            _log,
            logging.ERROR,
            Event.ROUND_TROUBLE,
            text,
            trace=error is None,
            error=error,
            retry_seconds=wait,
        )
        self._ending.wait(wait)

    def _tidy(self) -> None:
        """Delete the updates of attempts that are over, also of those that were never merged."""
        latest, parts = self._view().attempt.id, self._parts
        self._turns += 1
        if parts.store.shared and (self._untidied < latest or self._turns % _COPIES_EVERY == 0):
            self._forget_copies()
        while self._untidied < latest:
            parts.log.drop(self._untidied)
            self._untidied += 1

    def _forget_copies(self) -> None:
        """Of versions that other processes deleted."""
        with self._parts.store.reading() as transaction:
            versions = [row for row in transaction.versions() if not row.deleted]
        kept = {digest for row in versions for digest in (row.heads, row.moments) if digest}
        self._parts.blobs.forget_copies(self._lasting | kept)

    def _end_attempt(self) -> None:
        attempt, parts = self._view().attempt, self._parts
        overdue = self._view().overdue(parts.clock()) if attempt.is_async else []
        if attempt.at(parts.clock()) is attempt and not overdue:
            return
        failed = self._view().failed_attempts
        self._writer.submit(lambda work: turn(work, parts.rounds, parts.settings.seed)).result()
        if self._view().failed_attempts > failed:
            log_event(
                _log,
                logging.WARNING,
                Event.ATTEMPT_FAILED,
                "round %(round)d, attempt %(attempt)d failed: %(updates)d of %(enough)d updates at the "
                "deadline",
                round=attempt.round,
                attempt=attempt.number,
                updates=attempt.accepted,
                enough=attempt.settings.enough,
            )

    def _merge(self) -> None:
        view, parts = self._view(), self._parts
        attempt, settings = view.attempt, parts.settings
        with parts.store.reading() as transaction:
            since, rows = transaction.revision, transaction.tasks_stored(attempt.id)
        updates = [row.update for row in rows if row.update]
        with parts.meters.merge_seconds.time():
            version = self._merger.merge(attempt, updates, view.heads, parts.clock())
        merged = self._writer.submit(
            lambda work: record_merge(
                work, version, parts.rounds, settings.seed, settings.rounds, since
            )
        ).result()
        if not merged:
            return
        log_event(
            _log,
            logging.INFO,
            Event.ROUND_MERGED,
            "round %(round)d merged: version %(version)d from %(updates)d updates; heads that kept their "
            "value: %(heads_kept)d",
            round=attempt.round,
            version=version.version,
            updates=len(updates),
            heads_kept=version.heads_kept,
        )
        parts.log.drop(attempt.id)
        old = self._writer.submit(lambda work: forget_old(work, settings.keep_versions)).result()
        for row in old:
            parts.blobs.delete(row.heads)
            if row.moments is not None:
                parts.blobs.delete(row.moments)
