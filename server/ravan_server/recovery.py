"""What a server does before it takes its first request: begin a run, or go on with one."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence

from ravan_edge.artifact import HEADS_NAME
from ravan_edge.errors import UsageError
from ravan_edge.files import storage_errors
from ravan_server.events import Event, log_event
from ravan_server.parts import Parts
from ravan_server.rounds import Attempt, AttemptState
from ravan_server.store import RunRow, TaskRow, Transaction, VersionRow

__all__ = ["recover"]

_log = logging.getLogger(__name__)


def recover(parts: Parts) -> None:
    """Make the state of a killed process, or of none, one that the server can go on with.

    Everything that was acknowledged is in the store. What lies beside it was on its way: bytes behind
    the last known update are cut off, segments of other attempts deleted, and files that are of no
    version or of a forgotten one.

    All of it happens while this process is the one that writes. Should another one be at work after all (it
    lost its connection to the database, and its lock with it): its updates are on their way only while it
    writes, so never now, and a version that it makes is refused (``operations.record_merge``). Where other
    processes serve the run already, there is nothing to recover.

    Raises:
        UsageError: The state belongs to another artifact, or the blobs to another state.
        StorageError: It cannot be read or written.
    """
    with parts.store.writing() as transaction:
        run = transaction.run()
        if run is None:
            run = _begin(transaction, parts)
        elif run.artifact != parts.artifact.digest:
            raise UsageError(
                f"the state belongs to artifact {run.artifact}, this is {parts.artifact.digest}",
                where="--state",
                hint="name another folder, or the artifact it was begun with",
            )
        parts.blobs.claim(f"{run.artifact} {run.created_at!r}")
        if parts.store.alone:
            _go_on(transaction, parts)
            _tidy(transaction, parts)
            transaction.mark_recovered()
    parts.store.admit_others()
    if not parts.store.alone:
        log_event(_log, logging.INFO, Event.JOINED, "other processes serve this run already")
    shutil.rmtree(parts.scratch, ignore_errors=True)


def _begin(transaction: Transaction, parts: Parts) -> RunRow:
    """Version 0 is the artifact's own heads: a version like any other."""
    path, now = parts.artifact.folder / HEADS_NAME, parts.clock()
    with storage_errors(path, "read the file"):
        content = path.read_bytes()
    run = RunRow(parts.artifact.digest, now)
    transaction.begin_run(run)
    transaction.add_version(VersionRow(0, parts.blobs.put(content), len(content), None, 0, now))
    transaction.add_attempt(Attempt.first(parts.rounds, parts.settings.seed, now))
    return run


def _go_on(transaction: Transaction, parts: Parts) -> None:
    """Devices that waited get the whole time again; a run that was finished may have more rounds."""
    attempt, now = transaction.attempt(), parts.clock()
    if attempt.state is AttemptState.MERGED and attempt.round < parts.settings.rounds:
        version = transaction.latest_version().version
        transaction.add_attempt(attempt.following(version, parts.rounds, parts.settings.seed, now))
    elif attempt.state is AttemptState.OPEN:
        transaction.save_attempt(attempt.resumed(now))
        transaction.extend_deadlines(now + attempt.settings.deadline_seconds)


def _tidy(transaction: Transaction, parts: Parts) -> None:
    attempt = transaction.attempt()
    parts.log.recover(attempt.id, _ends(transaction.tasks_stored(attempt.id)))
    kept = [row for row in transaction.versions() if not row.deleted]
    parts.blobs.keep({row.heads for row in kept} | {row.moments for row in kept if row.moments})


def _ends(rows: Sequence[TaskRow]) -> dict[str, int]:
    """Where the last acknowledged update of each segment ends."""
    ends: dict[str, int] = {}
    for row in rows:
        if row.update is not None:
            end = row.update.offset + row.update.bytes
            ends[row.update.segment] = max(end, ends.get(row.update.segment, 0))
    return ends
