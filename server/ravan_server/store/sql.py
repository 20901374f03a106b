"""Rows in and out of a database that SQLAlchemy speaks to, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Executable,
    Update,
    bindparam,
    func,
    insert,
    select,
    update,
)

from ravan_edge.errors import StorageError, UsageError
from ravan_server.rounds import Attempt, AttemptState
from ravan_server.settings import RoundSettings
from ravan_server.store import schema
from ravan_server.store.rows import RunRow, StoredUpdate, TaskRow, TaskState, VersionRow
from ravan_server.store.sql_history import SqlHistory
from ravan_server.store.sql_identities import SqlIdentities

__all__ = ["SqlTransaction"]

_UPDATE = tuple(StoredUpdate.__dataclass_fields__)
_NO_UPDATE: dict[str, Any] = dict.fromkeys(_UPDATE)
_CHANGING = ("state", "ended_at", "failure", *_UPDATE)
_CHANGING_ATTEMPT = ("state", "deadline_at", "ended_at", "training", "accepted")


def _saving(key: Column[Any], *names: str) -> Update:
    """Only these: an index is rewritten where one of its columns is named."""
    values: dict[str, Any] = {name: bindparam(name) for name in names}
    return update(key.table).where(key == bindparam("key")).values(values)


# What every commit runs is put together once: that takes longer than SQLite does.
_LATEST_ATTEMPT = select(schema.attempts).order_by(schema.attempts.c.id.desc()).limit(1)
_SAVE_ATTEMPT = _saving(schema.attempts.c.id, *_CHANGING_ATTEMPT)
_NUMBERS = select(schema.devices.c.device, schema.devices.c.number).where(
    schema.devices.c.device.in_(bindparam("devices", expanding=True))
)
_LARGEST_NUMBER = select(func.max(schema.devices.c.number))
_ADD_DEVICE = insert(schema.devices)
_ADD_TASK = insert(schema.tasks)
_SAVE_TASK = _saving(schema.tasks.c.task, *_CHANGING)
_SAVE_STAMPED = _saving(schema.tasks.c.task, *_CHANGING, "revision")


class SqlTransaction:
    """:class:`ravan_server.store.Transaction` on one connection.

    Args:
        connection: Inside a transaction.
        revision: Of this one; None: it only reads.
        stamped: Whether tasks say which revision wrote them.
    """

    def __init__(
        self, connection: Connection, revision: int | None = None, *, stamped: bool = False
    ) -> None:
        self._connection = connection
        self._revision = revision
        self._stamp = {"revision": revision} if stamped else {}
        self.identities = SqlIdentities(connection, revision)
        self.history = SqlHistory(connection, _attempt, _task)

    @property
    def revision(self) -> int:
        """How many transactions have written, this one included."""
        if self._revision is None:
            self._revision = int(self._connection.scalar(select(schema.writes.c.revision)) or 0)
        return self._revision

    @property
    def recovered(self) -> int:
        """The revision of the latest recovery."""
        return int(self._connection.scalar(select(schema.writes.c.recovered)) or 0)

    def mark_recovered(self) -> None:
        """This transaction recovers the run."""
        self._connection.execute(update(schema.writes).values(recovered=self.revision))

    def run(self) -> RunRow | None:
        """The run, if there is one."""
        found = self._one(select(schema.run))
        if found is None:
            return None
        if found["schema_version"] != schema.SCHEMA_VERSION:
            raise UsageError(
                f"the state has schema {found['schema_version']}, this is {schema.SCHEMA_VERSION}",
                hint="use the version of ravan-edge that made it",
            )
        return RunRow(found["artifact"], found["created_at"])

    def begin_run(self, row: RunRow) -> None:
        """Say what the run is, once."""
        values = {"id": 1, "schema_version": schema.SCHEMA_VERSION, **asdict(row)}
        self._connection.execute(insert(schema.run), values)

    def attempt(self) -> Attempt:
        """The latest attempt."""
        return _attempt(self._first(_LATEST_ATTEMPT))

    def attempt_of(self, attempt: int) -> Attempt | None:
        """An attempt by its id."""
        found = self._one(select(schema.attempts).where(schema.attempts.c.id == attempt))
        return None if found is None else _attempt(found)

    def add_attempt(self, attempt: Attempt) -> None:
        """A new attempt; its id is free."""
        self._connection.execute(insert(schema.attempts), _attempt_values(attempt))

    def save_attempt(self, attempt: Attempt) -> None:
        """An attempt that is there, changed: what can change of it."""
        values = {name: getattr(attempt, name) for name in _CHANGING_ATTEMPT}
        values["state"] = str(attempt.state)
        self._connection.execute(_SAVE_ATTEMPT, values | {"key": attempt.id})

    def attempts(self, state: str) -> int:
        """How many attempts are in a state."""
        return self._count(schema.attempts, schema.attempts.c.state == state)

    def numbers(self, devices: Sequence[str]) -> Mapping[str, int]:
        """The numbers of those of these devices that have one."""
        if not devices:
            return {}
        found = self._connection.execute(_NUMBERS, {"devices": devices})
        return {row.device: row.number for row in found}

    def add_devices(self, numbers: Mapping[str, int]) -> None:
        """New devices with their numbers, which go on behind :meth:`devices`."""
        rows = [{"number": number, "device": device} for device, number in numbers.items()]
        self._execute(_ADD_DEVICE, rows)

    def devices(self) -> int:
        """How many devices have a number: all from 0 on."""
        largest = self._connection.scalar(_LARGEST_NUMBER)
        return 0 if largest is None else int(largest) + 1

    def task(self, task: str) -> TaskRow | None:
        """A task by its id."""
        found = self._one(select(schema.tasks).where(schema.tasks.c.task == task))
        return None if found is None else _task(found)

    def task_of(self, attempt: int, device: str) -> TaskRow | None:
        """The task that a device has; where it has none, the one that this attempt gave it."""
        table = schema.tasks
        of_device = select(table).where(table.c.device == device)
        found = self._one(of_device.where(schema.OUT)) or self._one(
            of_device.where(table.c.attempt == attempt)
        )
        return None if found is None else _task(found)

    def tasks(self, attempt: int) -> Sequence[TaskRow]:
        """All tasks that an attempt gave out, in the order of their assignment."""
        return self._tasks(schema.tasks.c.attempt == attempt)

    def tasks_out(self) -> Sequence[TaskRow]:
        """All tasks that are out, in the same order."""
        return self._tasks(schema.OUT)

    def tasks_stored(self, attempt: int) -> Sequence[TaskRow]:
        """All tasks whose updates are stored for an attempt, in the same order."""
        return self._tasks(*_stored(attempt))

    def tasks_written(self, after: int) -> Sequence[TaskRow]:
        """Tasks that later transactions than ``after`` wrote, in the same order."""
        return self._tasks(schema.tasks.c.revision > after)

    def add_tasks(self, rows: Sequence[TaskRow]) -> None:
        """New tasks; a device has one of an attempt at most."""
        self._execute(_ADD_TASK, [_task_values(row) | self._stamp for row in rows])

    def save_tasks(self, rows: Sequence[TaskRow]) -> None:
        """Tasks that are there, changed: their state, and what came with it."""
        values = []
        for row in rows:
            every = _task_values(row)
            changing = {name: every[name] for name in _CHANGING}
            values.append({"key": row.task} | changing | self._stamp)
        self._execute(_SAVE_STAMPED if self._stamp else _SAVE_TASK, values)

    def extend_deadlines(self, deadline_at: float) -> None:
        """Tasks that are out and have a deadline have this one."""
        table = schema.tasks
        self._connection.execute(
            update(table)
            .where(schema.OUT, table.c.deadline_at.is_not(None))
            .values(deadline_at=deadline_at, **self._stamp)
        )

    def end_out(self, after: TaskState, now: float, before_version: int | None = None) -> int:
        """Move all tasks that are out to another state; how many there were."""
        statement = (
            update(schema.tasks)
            .where(schema.OUT)
            .values(state=str(after), ended_at=now, **self._stamp)
        )
        if before_version is not None:
            statement = statement.where(schema.tasks.c.version < before_version)
        return self._connection.execute(statement).rowcount

    def end_stored(self, attempt: int, after: TaskState) -> None:
        """Move all tasks whose updates are stored for an attempt to another state."""
        self._connection.execute(
            update(schema.tasks).where(*_stored(attempt)).values(state=str(after), **self._stamp)
        )

    def latest_version(self) -> VersionRow:
        """The latest version."""
        table = schema.versions
        latest = select(table).order_by(table.c.version.desc()).limit(1)
        return VersionRow(**self._first(latest))

    def version(self, version: int) -> VersionRow | None:
        """A version by its number."""
        found = self._one(select(schema.versions).where(schema.versions.c.version == version))
        return None if found is None else VersionRow(**found)

    def versions(self) -> Sequence[VersionRow]:
        """All versions, ascending."""
        statement = select(schema.versions).order_by(schema.versions.c.version)
        return [VersionRow(**found) for found in self._connection.execute(statement).mappings()]

    def keeps(self, heads: str) -> bool:
        """Whether these are the heads of a version that is kept."""
        table = schema.versions
        return bool(self._count(table, table.c.heads == heads, table.c.deleted.is_(False)))

    def save_version(self, row: VersionRow) -> None:
        """A version that is there, changed."""
        values = asdict(row)
        statement = update(schema.versions).where(
            schema.versions.c.version == values.pop("version")
        )
        self._connection.execute(statement, values)

    def add_version(self, row: VersionRow) -> None:
        """A new version."""
        self._connection.execute(insert(schema.versions), asdict(row))

    def _execute(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        """One statement for many rows; for none, nothing."""
        if rows:
            self._connection.execute(statement, rows)

    def _tasks(self, *where: ColumnElement[bool]) -> Sequence[TaskRow]:
        table = schema.tasks
        statement = select(table).where(*where).order_by(table.c.assigned_at, table.c.task)
        return [_task(dict(found)) for found in self._connection.execute(statement).mappings()]

    def _one(self, statement: Any) -> Mapping[str, Any] | None:  # noqa: ANN401
        found = self._connection.execute(statement).mappings().first()
        return None if found is None else dict(found)

    def _first(self, statement: Any) -> Mapping[str, Any]:  # noqa: ANN401
        found = self._one(statement)
        if found is None:
            raise StorageError(
                "the state has a run, but no attempt or no version",
                hint="restore a backup of the state folder",
            )
        return found

    def _count(self, table: Any, *where: Any) -> int:  # noqa: ANN401
        statement = select(func.count()).select_from(table).where(*where)
        return int(self._connection.scalar(statement) or 0)


def _stored(attempt: int) -> tuple[ColumnElement[bool], ...]:
    """Tasks whose updates wait for the merge of an attempt."""
    table = schema.tasks
    return table.c.counted_in == attempt, table.c.state == str(TaskState.ACCEPTED)


def _attempt_values(attempt: Attempt) -> dict[str, Any]:
    return {
        "id": attempt.id,
        "round": attempt.round,
        "number": attempt.number,
        "version": attempt.version,
        "state": str(attempt.state),
        "settings": attempt.settings.to_json(),
        "seed": str(attempt.seed),
        "opened_at": attempt.opened_at,
        "deadline_at": attempt.deadline_at,
        "ended_at": attempt.ended_at,
        "training": attempt.training,
        "accepted": attempt.accepted,
    }


@lru_cache(maxsize=64)
def _settings(text: str) -> RoundSettings:
    return RoundSettings.from_json(text)


def _attempt(found: Mapping[str, Any]) -> Attempt:
    return Attempt(
        **{
            **found,
            "state": AttemptState(found["state"]),
            "settings": _settings(found["settings"]),
            "seed": int(found["seed"]),
        }
    )


def _task_values(row: TaskRow) -> dict[str, Any]:
    values = vars(row) | (_NO_UPDATE if row.update is None else vars(row.update))
    del values["update"]
    values["state"] = str(row.state)
    return values


def _task(found: Mapping[str, Any]) -> TaskRow:
    values = dict(found)
    del values["revision"]
    stored = {name: values.pop(name) for name in _UPDATE}
    values["state"] = TaskState(values["state"])
    return TaskRow(**values, update=None if stored["sha256"] is None else StoredUpdate(**stored))
