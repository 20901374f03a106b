"""The store in one file: SQLite, for one server process."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.pool import QueuePool

from ravan_server.store.sql_store import SqlStore

__all__ = ["SqliteStore"]


class SqliteStore(SqlStore):
    """:class:`ravan_server.store.Store` in an SQLite file.

    The write-ahead log is synced at every commit (``synchronous=FULL``), so a transaction that ended
    survives a loss of power, not only a kill.

    Raises:
        StorageError: The file cannot be opened or made.
        UsageError: It is no state of a server, or one of another version.
    """

    def __init__(self, path: Path) -> None:
        engine = create_engine(
            URL.create("sqlite+pysqlite", database=str(path)),  # no text: a path may have a "?"
            poolclass=QueuePool,
            pool_size=4,
            max_overflow=4,
            connect_args={"check_same_thread": False, "isolation_level": None, "timeout": 30},
        )
        event.listen(engine, "connect", _prepare)
        super().__init__(
            engine,
            str(path),
            "look at the disk and at who may write there; nothing that was acknowledged is lost",
        )
        self._make()

    def admit_others(self) -> None:
        """Nothing to do: the folder's lock keeps them away."""

    def hold(self) -> None:
        """Nothing to do: nobody takes it."""

    def only_one(self, work: str) -> AbstractContextManager[bool]:
        """It may: there is only one."""
        return nullcontext(True)

    def now(self) -> float:
        """Seconds since 1970, by the system's clock."""
        return time.time()

    def _begin_writing(self, connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def _begin_reading(self, connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    def _begin_making(self, connection: Connection) -> None:
        self._begin_writing(connection)


def _prepare(connection: Any, record: object) -> None:  # noqa: ANN401, ARG001  (SQLAlchemy's signature)
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
