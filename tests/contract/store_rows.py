"""Rows for the contract of a store, with values at their limits."""

from __future__ import annotations

from dataclasses import replace

from ravan_edge.merge import RoundMode, RoundRule
from ravan_edge.training import LocalSettings
from ravan_server.rounds import Attempt
from ravan_server.settings import RoundSettings
from ravan_server.store import (
    IdentityRow,
    InvitationRow,
    StoredUpdate,
    TaskRow,
    TaskState,
    VersionRow,
)

DIGEST = "a1" * 32
LARGEST = (1 << 53) - 1
SETTINGS = RoundSettings(
    local=LocalSettings(local_steps=3, lr=0.1), rule=RoundRule(mode=RoundMode.ASYNC), goal=7
)
ATTEMPT = Attempt.first(SETTINGS, (1 << 64) - 1, 1_700_000_000.123456)
VERSION = VersionRow(0, DIGEST, LARGEST, None, 0, 1_700_000_000.1)
HOSTILE = "'; DROP TABLE tasks; -- \\ %s %(x)s :y \" \u202e \U0001f98a \n\t\x01"


def task(number: int, **changes: object) -> TaskRow:
    row = TaskRow(
        task=f"task-{number:05}",
        attempt=1,
        version=0,
        device=f"device-{number:05}",
        number=number,
        plan="whole",
        heads_to_train=None,
        state=TaskState.TRAINING,
        assigned_at=1_700_000_000.0 + number / 8,
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def stored(number: int, **changes: object) -> StoredUpdate:
    found = StoredUpdate(f"{number:064x}", "1-1.updates", 64 * number, 60, 8, 1, counted_in=1)
    return replace(found, **changes)  # type: ignore[arg-type]


def accepted(number: int, **changes: object) -> TaskRow:
    return task(number, state=TaskState.ACCEPTED, ended_at=5.5, update=stored(number, **changes))


def invitation(number: int, **changes: object) -> InvitationRow:
    found = InvitationRow(number, f"{number:064x}", "", 3, 0, 1.5, 2.5)
    return replace(found, **changes)  # type: ignore[arg-type]


def identity(entry: int, **changes: object) -> IdentityRow:
    found = IdentityRow(entry, f"{entry:032x}", f"{entry:064x}", 1, 3.25)
    return replace(found, **changes)  # type: ignore[arg-type]
