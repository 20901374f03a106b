"""What all stores on a database have in common: transactions, one writer at a time, plain errors."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection, Engine, bindparam, insert, update
from sqlalchemy.exc import DataError as BadValueError
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ravan_edge.errors import StorageError
from ravan_server.store import schema
from ravan_server.store.migrations import migrate
from ravan_server.store.sql import SqlTransaction

__all__ = ["SqlStore"]

_NO_PRIVILEGE = "42501"
_WRITTEN = (
    update(schema.writes)
    .where(schema.writes.c.owner == bindparam("me"))
    .values(revision=schema.writes.c.revision + 1)
    .returning(schema.writes.c.revision)
)


class SqlStore(ABC):
    """:class:`ravan_server.store.Store` on an engine of SQLAlchemy.

    Args:
        engine: Connections to the database.
        where: How errors call it; without a secret.
        hint: What errors say can be done.
        owner: What this process calls itself there.
        shared: Several processes may have it.
    """

    def __init__(
        self, engine: Engine, where: str, hint: str, owner: str = "", *, shared: bool = False
    ) -> None:
        self.shared = shared
        self.alone = True
        self._engine = engine
        self._where = where
        self._hint = hint
        self._owner = owner
        self._writer = threading.Lock()

    @property
    def engine(self) -> Engine:
        """For tools that look into it."""
        return self._engine

    @contextmanager
    def writing(self) -> Iterator[SqlTransaction]:
        """A transaction that is durable once its block has ended, and undone if the block raises."""
        with (
            self._writer,
            self._errors("write to the database"),
            self._engine.begin() as connection,
        ):
            self._begin_writing(connection)
            revision = connection.scalar(_WRITTEN, {"me": self._owner})
            if revision is None:
                raise StorageError(
                    "another process has taken this database over",
                    where=self._where,
                    hint="end one of the two: each run has one server",
                )
            yield SqlTransaction(connection, revision, stamped=self.shared)

    @contextmanager
    def reading(self) -> Iterator[SqlTransaction]:
        """One consistent look, from any thread; it must not write."""
        with self._errors("read the database"), self._engine.connect() as connection:
            self._begin_reading(connection)
            yield SqlTransaction(connection)

    @abstractmethod
    def admit_others(self) -> None:
        """From now on others may open it, where it is shared."""

    @abstractmethod
    def hold(self) -> None:
        """Make sure that others still see that this process has it."""

    @abstractmethod
    def only_one(self, work: str) -> AbstractContextManager[bool]:
        """Whether this process may do what one of them does at a time."""

    @abstractmethod
    def now(self) -> float:
        """Seconds since 1970."""

    def close(self) -> None:
        """Nothing is open after this."""
        self._engine.dispose()

    @abstractmethod
    def _begin_writing(self, connection: Connection) -> None:
        """Make what follows a transaction that may write."""

    @abstractmethod
    def _begin_reading(self, connection: Connection) -> None:
        """Make what follows one consistent look."""

    @abstractmethod
    def _begin_making(self, connection: Connection) -> None:
        """Make what follows a transaction that no other process does at the same time."""

    def _make(self) -> None:
        """The tables, where they are missing; today's, where they are of an older version."""
        with self._errors("open the database"), self._engine.begin() as connection:
            self._begin_making(connection)
            migrate(connection, self._where, alone=self.alone)
            schema.metadata.create_all(connection)
            if connection.execute(update(schema.writes).values(owner=self._owner)).rowcount == 0:
                first = {"id": 1, "revision": 0, "owner": self._owner, "recovered": 0}
                connection.execute(insert(schema.writes), first)

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, PoolTimeout) as error:
            code = getattr(getattr(error, "orig", None), "sqlstate", None)
            bugs = IntegrityError, ProgrammingError, BadValueError
            if isinstance(error, bugs) and code != _NO_PRIVILEGE:
                raise  # not the disk, and not the network
            reason = str(error.orig) if isinstance(error, DBAPIError) else str(error)
            raise StorageError(
                f"cannot {action}: {' '.join(reason.split())}", where=self._where, hint=self._hint
            ) from error
