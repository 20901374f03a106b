"""What must hold of a state folder after any crash, whatever was promised before it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from sqlalchemy import select

from ravan_edge.artifact import Artifact, heads_metadata, load_heads, tensors_to_bytes
from ravan_edge.merge import Gathering, merge, staleness_factor
from ravan_edge.methods import method_for
from ravan_edge.protocol import Refusal
from ravan_server.coordinator import Coordinator
from ravan_server.moments_file import moments_to_bytes, read_moments
from ravan_server.serving import BLOBS_NAME, DATABASE_NAME, UPDATES_NAME
from ravan_server.settings import RoundSettings
from ravan_server.store import (
    SqliteStore,
    SqlStore,
    TaskRow,
    TaskState,
    Transaction,
    VersionRow,
)
from ravan_server.store.schema import attempts
from tests.server.crash_program import DEVICES, RUNS, device
from tests.server.server_kit import (
    Clock,
    Counted,
    ask,
    device_difference,
    device_update,
    merged_heads,
    opened_server,
    send,
    wait_for,
)

__all__ = ["check_state", "go_on"]


def check_state(artifact: Artifact, state: Path, marks: Iterable[str], run: str) -> int:
    """Open a state folder as a restarted server would, and look at all of it. The latest version.

    Args:
        artifact: Of the run.
        state: The folder as the crash left it.
        marks: What had been said to others before the crash, a line each.
        run: Which of ``crash_program.RUNS`` it is.
    """
    settings = RUNS[run]
    with opened_server(artifact, state, Clock(), settings):
        pass  # recovery, and whatever it merges on the way
    store = SqliteStore(state / DATABASE_NAME)
    try:
        with store.reading() as transaction:
            latest = transaction.latest_version().version
            for text in marks:
                kind, *words = text.split()
                if kind == "ack":
                    _check_promise(transaction.task(words[0]), words[1], state)
                elif kind == "enrolled":
                    known = transaction.identities.identity(words[0])
                    assert known is not None, "a device that was let in is not known"
                    assert known.public_key == words[1]
                elif kind == "revoked":
                    known = transaction.identities.identity(words[0])
                    assert known is not None
                    assert known.revoked_at is not None, "a device that was shut out is in again"
                else:
                    version = transaction.version(int(words[0]))
                    assert version is not None, f"version {words[0]} was seen and is gone"
                    assert version.heads == words[1]
            _check_invitations(transaction)
        _check_versions(artifact, state, store, latest, settings)
    finally:
        store.close()
    return latest


def _check_invitations(transaction: Transaction) -> None:
    """Each use of an invitation is one device, and there are no more than it says."""
    identities = transaction.identities
    entries = identities.identities(0, 1000)
    assert [row.entry for row in entries] == list(range(1, len(entries) + 1))
    for invitation in identities.invitations(1000):
        users = [row for row in entries if row.invitation == invitation.invitation]
        assert len(users) == invitation.used <= invitation.uses


def _check_promise(row: TaskRow | None, digest: str, state: Path) -> None:
    assert row is not None, "an acknowledged update is lost: its task is not there"
    assert row.update is not None, "an acknowledged update is lost"
    assert row.update.sha256 == digest
    assert row.state in {TaskState.ACCEPTED, TaskState.MERGED, TaskState.UNUSED}
    if row.state is TaskState.ACCEPTED:
        segment = (state / UPDATES_NAME / row.update.segment).read_bytes()
        assert len(segment) >= row.update.offset + row.update.bytes, "acknowledged bytes are lost"


def _check_versions(
    artifact: Artifact, state: Path, store: SqlStore, latest: int, settings: RoundSettings
) -> None:
    """Each version is bit by bit what its recorded updates make of the one before."""
    with store.reading() as transaction:
        versions = [transaction.version(number) for number in range(latest + 1)]
        for before, version in pairwise(versions):
            assert before is not None
            assert version is not None
            assert version.attempt is not None
            updates = _merged(transaction, version.attempt, before.version)
            assert len(updates) == len(set(updates)) == version.updates
            assert settings.enough <= len(updates) <= settings.updates
            blobs = state / BLOBS_NAME
            found = (blobs / version.heads).read_bytes()
            if settings.merging.is_plain:
                expected = merged_heads(artifact, blobs / before.heads, updates, before.version)
                assert version.moments is None
            else:
                expected = _merged_again(artifact, blobs, before, version, updates, settings)
            assert found == expected, f"version {version.version} is not what its updates make"
    with store.engine.connect() as connection:
        for row in connection.execute(select(attempts)).mappings():
            assert row["accepted"] <= settings.updates
    with store.reading() as transaction:
        assert transaction.attempt().training == len(transaction.tasks_out())


def _merged(transaction: Transaction, attempt: int, version: int) -> list[Counted]:
    """What is recorded of the updates that an attempt merged into ``version``."""
    found = []
    for number in range(1, attempt + 1):
        for row in transaction.tasks(number):
            if row.update is None or row.update.counted_in != attempt:
                continue
            if row.state is TaskState.UNUSED:
                continue  # its device was shut out
            assert row.state is TaskState.MERGED
            assert row.update.factor == staleness_factor(version - row.version)
            found.append(Counted(row.number, row.version, row.update.count, row.update.factor))
    return found


def _merged_again(
    artifact: Artifact,
    blobs: Path,
    before: VersionRow,
    version: VersionRow,
    updates: list[Counted],
    settings: RoundSettings,
) -> bytes:
    """The heads file by the kit's own rules, from the version before and its moments."""
    method, merging = method_for(artifact.manifest), settings.merging
    heads = method.layout.pack(load_heads(blobs / before.heads, artifact.manifest, artifact.digest))
    moments = None
    if before.moments is not None:
        moments = read_moments(blobs / before.moments, method.layout.size)
    with tempfile.TemporaryDirectory() as folder:
        scale = settings.scale
        gathering = Gathering(merging, method, scale, Path(folder) / "rows")
        for each in updates:
            difference = device_difference(artifact, each.device, each.version)
            gathering.add(difference, None, each.weight)
        found = merge(merging, method, heads, gathering.finished(), moments)
    assert version.moments is not None
    assert found.moments is not None
    assert (blobs / version.moments).read_bytes() == moments_to_bytes(
        found.moments, version.version
    )
    metadata = heads_metadata(version.version, artifact.digest)
    return tensors_to_bytes(method.layout.views(found.heads), metadata)


def go_on(artifact: Artifact, state: Path, versions: int, run: str) -> str:
    """Finish the run after a crash; the digest of its last heads."""
    with opened_server(artifact, state, Clock(), RUNS[run]) as server:
        while server.status().version < versions:
            one_more(server)
        return server.status().heads


def one_more(server: Coordinator) -> None:
    """The devices of a round that are still missing."""
    version = server.status().version
    for number in range(DEVICES):
        offer = ask(server, device(number))
        if offer.answer == "task":
            with suppress(Refusal):  # a version is being made
                send(server, device_update(server.artifact, offer), offer.task)
        if server.status().state == "merging" or server.status().version > version:
            break
    wait_for(server, version + 1)
