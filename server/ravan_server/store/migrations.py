"""From the tables of an older version to today's: a step for each number, all in one transaction.

A step is never changed once it was released: it is written for the tables as they were then, in words that
SQLite and PostgreSQL both understand, and uses no class of today.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType

from sqlalchemy import Connection, inspect, text

from ravan_edge.errors import UsageError
from ravan_server.events import Event, log_event
from ravan_server.store import schema

__all__ = ["migrate"]

_log = logging.getLogger(__name__)


def migrate(connection: Connection, where: str, *, alone: bool = True) -> None:
    """Make the tables that are there today's. What is missing altogether is not made.

    Args:
        connection: Inside a transaction that nobody else is in.
        where: How messages call the database.
        alone: Whether no other process works on them.

    Raises:
        UsageError: They are of a later version, or of one that there is no way from; or other processes
            work on those of an earlier one.
    """
    if not inspect(connection).has_table("run"):
        return
    found = connection.scalar(text("SELECT schema_version FROM run"))
    if found is None:  # a process was killed before its run began: there is nothing in them
        schema.metadata.drop_all(connection)
        return
    if found > schema.SCHEMA_VERSION or (found < schema.SCHEMA_VERSION and found not in _STEPS):
        raise UsageError(
            f"the state has schema {found}, this is {schema.SCHEMA_VERSION}",
            where=where,
            hint="use the version of ravan-edge that made it",
        )
    if found < schema.SCHEMA_VERSION and not alone:
        raise UsageError(
            f"the state has schema {found}, this is {schema.SCHEMA_VERSION}, and other processes serve it",
            where=where,
            hint="end them all, then start this version: the first process changes the schema",
        )
    for version in range(found, schema.SCHEMA_VERSION):
        _STEPS[version](connection)
        connection.execute(text("UPDATE run SET schema_version = :new"), {"new": version + 1})
        log_event(
            _log,
            logging.INFO,
            Event.SCHEMA_CHANGED,
            "%(where)s: from schema %(before)d to %(after)d",
            where=where,
            before=version,
            after=version + 1,
        )


def _to_3(connection: Connection) -> None:
    """Asynchronous rounds, in which tasks outlive attempts and updates have weights; codecs; other merges."""
    for statement in (
        "ALTER TABLE tasks ADD COLUMN version INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE tasks ADD COLUMN deadline_at FLOAT",
        "ALTER TABLE tasks ADD COLUMN counted_in INTEGER",
        "ALTER TABLE tasks RENAME COLUMN weight TO count",
        "ALTER TABLE tasks ADD COLUMN factor BIGINT",
        "UPDATE tasks SET version = (SELECT a.version FROM attempts a WHERE a.id = tasks.attempt)",
        "UPDATE tasks SET counted_in = attempt, factor = 4294967296 WHERE sha256 IS NOT NULL",
        "CREATE INDEX tasks_out ON tasks (device) WHERE state = 'training'",
        "CREATE INDEX tasks_counted_in ON tasks (counted_in)",
        "ALTER TABLE versions ADD COLUMN heads_kept INTEGER",
        "ALTER TABLE versions ADD COLUMN moments VARCHAR(64)",
    ):
        connection.execute(text(statement))
    more = {
        "rule": {"mode": "sync", "buffer": None, "max_staleness": None, "weighting": "uniform"},
        "upload": {"codec": "fp32", "top_k_share": 0.1},
        "merging": {
            "merge": "mean",
            "byzantine": None,
            "max_norm": None,
            "server_optimizer": "none",
            "server_lr": None,
            "server_momentum": 0.9,
            "server_beta1": 0.9,
            "server_beta2": 0.99,
            "server_epsilon": 0.001,
        },
    }
    for number, settings in connection.execute(text("SELECT id, settings FROM attempts")).all():
        values = {"id": number, "settings": json.dumps({**json.loads(settings), **more})}
        connection.execute(text("UPDATE attempts SET settings = :settings WHERE id = :id"), values)


def _to_4(connection: Connection) -> None:
    """Several processes of one run, which read what the others wrote."""
    if inspect(connection).has_table("writes"):
        connection.execute(
            text("ALTER TABLE writes ADD COLUMN recovered BIGINT NOT NULL DEFAULT 0")
        )
    for statement in (
        "ALTER TABLE tasks ADD COLUMN revision BIGINT",
        "CREATE INDEX tasks_written ON tasks (revision) WHERE revision IS NOT NULL",
        "ALTER TABLE identities ADD COLUMN revoked_in BIGINT",
        "UPDATE identities SET revoked_in = 0 WHERE revoked_at IS NOT NULL",
        "CREATE INDEX identities_revoked ON identities (revoked_in) WHERE revoked_in IS NOT NULL",
    ):
        connection.execute(text(statement))


_STEPS: Mapping[int, Callable[[Connection], None]] = MappingProxyType({2: _to_3, 3: _to_4})
