"""Which processes have a database: PostgreSQL's advisory locks, which end with the connection that took them.

So whoever was killed holds none, and no clock and no heartbeat decides who lives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from ravan_edge.errors import StorageError, UsageError
from ravan_server.store.store import MERGING, SCORING

__all__ = ["ProcessLocks"]

# "rava" and what follows it, each with the schema in which the tables are.
_HAVING, _DOOR, _MERGING, _SCORING = (1918989921 + number for number in range(4))
_WORK = {MERGING: _MERGING, SCORING: _SCORING}
_PATIENCE_SECONDS = 3.0  # with a process that was killed a moment ago
_DOOR_SECONDS = 60.0  # with one that recovers the run
_LOOK_SECONDS = 2.0


class ProcessLocks:
    """Locks of one process.

    Whoever has the database for itself holds one lock alone; several that share it hold the same one
    together. They come in one at a time, through a door that is a second lock: the first finds nobody, and
    recovers the run before it opens the door again; the others find somebody, so that has been done.

    Args:
        engine: Connections to the database.
        where: How messages call it.
        errors: Makes plain errors of the driver's.
        shared: Several processes may have it, all of which say so.
    """

    def __init__(
        self,
        engine: Engine,
        where: str,
        errors: Callable[[str], AbstractContextManager[None]],
        *,
        shared: bool,
    ) -> None:
        self._engine = engine
        self._where = where
        self._errors = errors
        self._shared = shared
        self._holder: Connection | None = None
        self._looked_at = time.monotonic()

    def enter(self) -> bool:
        """Take the database, and keep it; whether nobody else has it.

        Raises:
            UsageError: Another process has it for itself, or they share it and this one does not.
            StorageError: It cannot be reached.
        """
        alone = False

        def having() -> bool:
            nonlocal alone
            alone = _take(holder, _HAVING)
            return alone or (self._shared and _take(holder, _HAVING, shared=True))

        with self._errors("open the database"):
            holder = self._connect()
            is_open = not self._shared or _wait(lambda: _take(holder, _DOOR), _DOOR_SECONDS)
            entered = is_open and _wait(having, _PATIENCE_SECONDS)
        if not entered:
            raise UsageError(
                "another process has this database",
                where=self._where,
                hint="end that one first, or name another database or schema; processes that serve one run "
                "are all started with --shared",
            )
        return alone

    def admit_others(self) -> None:
        """Open the door."""
        if self._shared and self._holder is not None:
            with self._errors("share the database"):
                _take(self._holder, _HAVING, shared=True)  # twice, if others are here
                _give(self._holder, _HAVING)
                _give(self._holder, _DOOR)

    def hold(self) -> None:
        """Take the lock again where its connection was lost; looks at it once in a while.

        Raises:
            StorageError: The database cannot be reached, or somebody thought that it was free.
        """
        now = time.monotonic()
        if not self._shared or now < self._looked_at + _LOOK_SECONDS:
            return
        try:
            if self._holder is not None:
                self._holder.scalar(text("SELECT 1"))
        except DBAPIError:
            self.leave()
        if self._holder is None:
            taken = False
            try:
                with self._errors("share the database"):
                    taken = _take(self._connect(), _HAVING, shared=True)
            finally:
                if not taken:
                    self.leave()
            if not taken:
                raise StorageError(
                    "another process has taken this database over",
                    where=self._where,
                    hint="it recovers the run, or was started without --shared",
                )
        self._looked_at = now

    @contextmanager
    def only_one(self, work: str) -> Iterator[bool]:
        """Whether this process may do what one of them does at a time; see the store."""
        if not self._shared:
            yield True
            return
        with self._errors("ask who works"), self._engine.connect() as found:
            connection = found.execution_options(isolation_level="AUTOCOMMIT")
            mine = _take(connection, _WORK[work])
            try:
                yield mine
            finally:
                try:
                    if mine:
                        _give(connection, _WORK[work])
                except DBAPIError:  # with its connection the lock is gone
                    connection.invalidate()

    def leave(self) -> None:
        """Hold nothing after this."""
        if self._holder is not None:
            self._holder.invalidate()  # it is cut: the lock must not stay with it
            self._holder.close()
            self._holder = None

    def _connect(self) -> Connection:
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._holder = connection
        return connection


def _wait(taken: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not (found := taken()) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def _take(connection: Connection, lock: int, *, shared: bool = False) -> bool:
    how = "_shared" if shared else ""
    return bool(_call(connection, f"pg_try_advisory_lock{how}", lock))


def _give(connection: Connection, lock: int) -> None:
    _call(connection, "pg_advisory_unlock", lock)


def _call(connection: Connection, function: str, lock: int) -> object:
    statement = f"SELECT {function}({lock}, current_schema()::regnamespace::oid::int)"
    return connection.scalar(text(statement))
