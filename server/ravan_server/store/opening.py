"""Which store a server uses."""

from __future__ import annotations

from pathlib import Path

from ravan_edge.errors import UsageError
from ravan_server.store.postgresql import PostgresqlStore, read_database_file
from ravan_server.store.sql_store import SqlStore
from ravan_server.store.sqlite import SqliteStore

__all__ = ["open_store"]


def open_store(
    path: Path, database: str | None, database_file: Path | None, *, shared: bool = False
) -> SqlStore:
    """A PostgreSQL database where one is named, else an SQLite file.

    Args:
        path: The SQLite file.
        database: A connection URI without a password.
        database_file: A file that holds one.
        shared: Several processes may have the database, all of which say so.

    Raises:
        UsageError: Both are named, or what is named is no address.
        MissingExtraError: The driver is not installed.
        StorageError: It cannot be opened or made.
    """
    if database is not None and database_file is not None:
        raise UsageError(
            "names a database, and --database does, too",
            where="--database-file",
            hint="name one of them",
        )
    if database_file is not None:
        url = read_database_file(database_file)
        return PostgresqlStore(url, str(database_file), may_hold_secrets=True, shared=shared)
    if database is not None:
        return PostgresqlStore(database, shared=shared)
    return SqliteStore(path)
