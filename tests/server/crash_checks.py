"""What must hold of a state folder after any crash, whatever was promised before it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from sqlalchemy import select

from ravan_edge.artifact import Artifact, heads_metadata, load_heads, tensors_to_bytes
from ravan_edge.merge import Gathering, MergeScale, merge
from ravan_edge.methods import method_for
from ravan_server.coordinator import Coordinator
from ravan_server.moments_file import moments_to_bytes, read_moments
from ravan_server.serving import BLOBS_NAME, DATABASE_NAME, UPDATES_NAME
from ravan_server.settings import RoundSettings
from ravan_server.store import SqlStore, TaskRow, TaskState, Transaction, VersionRow
from ravan_server.store.schema import attempts
from tests.server.crash_program import DEVICES, ROUNDS, device
from tests.server.server_kit import (
    Clock,
    ask,
    device_difference,
    device_update,
    expected_heads,
    opened_server,
    send,
    wait_for,
)

__all__ = ["check_state", "go_on"]


def check_state(
    artifact: Artifact, state: Path, marks: Iterable[str], rounds: RoundSettings = ROUNDS
) -> int:
    """Open a state folder as a restarted server would, and look at all of it. The latest version.

    Args:
        artifact: Of the run.
        state: The folder as the crash left it.
        marks: What had been said to others before the crash, a line each.
        rounds: Of the run.
    """
    with opened_server(artifact, state, Clock(), rounds):
        pass  # recovery, and whatever it merges on the way
    store = SqlStore(state / DATABASE_NAME)
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
        _check_versions(artifact, state, store, latest, rounds)
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
    artifact: Artifact, state: Path, store: SqlStore, latest: int, rounds: RoundSettings
) -> None:
    """Each version is bit by bit what its recorded updates make of the one before."""
    with store.reading() as transaction:
        versions = [transaction.version(number) for number in range(latest + 1)]
        for before, version in pairwise(versions):
            assert before is not None
            assert version is not None
            assert version.attempt is not None
            rows = [
                row for row in transaction.tasks(version.attempt) if row.state is TaskState.MERGED
            ]
            devices = [row.number for row in rows]
            assert len(devices) == len(set(devices)) == version.updates == ROUNDS.goal
            blobs = state / BLOBS_NAME
            found = (blobs / version.heads).read_bytes()
            if rounds.merging.is_plain:
                expected = expected_heads(artifact, blobs / before.heads, devices, before.version)
                assert version.moments is None
            else:
                expected = _merged_again(artifact, blobs, before, version, devices, rounds)
            assert found == expected, f"version {version.version} is not what its updates make"
    with store.engine.connect() as connection:
        for row in connection.execute(select(attempts)).mappings():
            assert row["accepted"] <= ROUNDS.goal


def _merged_again(
    artifact: Artifact,
    blobs: Path,
    before: VersionRow,
    version: VersionRow,
    devices: list[int],
    rounds: RoundSettings,
) -> bytes:
    """The heads file by the kit's own rules, from the version before and its moments."""
    method, settings = method_for(artifact.manifest), rounds.merging
    heads = method.layout.pack(load_heads(blobs / before.heads, artifact.manifest, artifact.digest))
    moments = None
    if before.moments is not None:
        moments = read_moments(blobs / before.moments, method.layout.size)
    with tempfile.TemporaryDirectory() as folder:
        scale = MergeScale.for_cohort(rounds.goal)
        gathering = Gathering(settings, method, scale, Path(folder) / "rows")
        for number in devices:
            gathering.add(device_difference(artifact, number, before.version), None)
        found = merge(settings, method, heads, gathering.finished(), moments)
    assert version.moments is not None
    assert found.moments is not None
    assert (blobs / version.moments).read_bytes() == moments_to_bytes(
        found.moments, version.version
    )
    metadata = heads_metadata(version.version, artifact.digest)
    return tensors_to_bytes(method.layout.views(found.heads), metadata)


def go_on(artifact: Artifact, state: Path, versions: int, rounds: RoundSettings = ROUNDS) -> str:
    """Finish the run after a crash; the digest of its last heads."""
    with opened_server(artifact, state, Clock(), rounds) as server:
        while server.status().version < versions:
            one_more(server)
        return server.status().heads


def one_more(server: Coordinator) -> None:
    """The devices of a round that are still missing."""
    version = server.status().version
    for number in range(DEVICES):
        offer = ask(server, device(number))
        if offer.answer == "task":
            send(server, device_update(server.artifact, offer), offer.task)
        if server.status().state == "merging" or server.status().version > version:
            break
    wait_for(server, version + 1)
