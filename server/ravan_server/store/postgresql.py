"""The store on PostgreSQL: for a server that several processes serve, or whose state others keep safe."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, text

from ravan_edge.errors import MissingExtraError, StorageError, UsageError
from ravan_edge.files import storage_errors
from ravan_server.events import Event, log_event
from ravan_server.store.process_locks import ProcessLocks
from ravan_server.store.sql_store import SqlStore

__all__ = ["PostgresqlStore", "read_database_file"]

_log = logging.getLogger(__name__)

_MOST_URL_BYTES = 4096
_SCHEMES = ("postgresql://", "postgres://")
_SECRETS = frozenset({"password", "sslpassword"})
_SHARED = "shared"
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
_MAKING = 1918989921  # of a database, while somebody makes tables in it
# A network that is cut is noticed within half a minute, and so is a process that stands still while
# it holds the row that only one writer may change.
_DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "fallback_application_name": "ravan",
    "client_encoding": "utf8",
}
_SESSION = (
    # An acknowledgement is a promise. What an operator chose above that stays.
    (
        "SELECT set_config('synchronous_commit', 'on', false) "
        "WHERE current_setting('synchronous_commit') IN ('off', 'local')"
    ),
    "SET lock_timeout = '30s'",
    "SET idle_in_transaction_session_timeout = '60s'",
    "SET default_transaction_isolation = 'read committed'",
    # A machine that is gone must not keep its locks for the two hours that systems have by default.
    "SET tcp_keepalives_idle = 10",
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 3",
    "SET tcp_user_timeout = 20000",
    # A connection that only holds a lock says nothing. Older ones than PostgreSQL 14 do not mind.
    (
        "SELECT set_config('idle_session_timeout', '0', false) "
        "WHERE current_setting('idle_session_timeout', true) IS NOT NULL"
    ),
)


def read_database_file(path: Path) -> str:
    """The address in a file, with a password or without.

    Raises:
        UsageError: It holds none.
        StorageError: It cannot be read.
    """
    with storage_errors(path, "read the database's address"), path.open("rb") as file:
        content = file.read(_MOST_URL_BYTES + 1)
    url = content.decode("utf-8", "replace").strip()
    if len(content) > _MOST_URL_BYTES or not url.startswith(_SCHEMES) or len(url.split()) != 1:
        raise UsageError(
            "this is no address of a database: expected one line, "
            "postgresql://user:password@host:port/database",
            where=str(path),
            hint="write the address into it",
        )
    return url


class PostgresqlStore(SqlStore):
    """:class:`ravan_server.store.Store` in the schema of a PostgreSQL database that comes first.

    A commit is acknowledged when its record is on PostgreSQL's disk (``synchronous_commit``). Readers look at
    one snapshot (REPEATABLE READ) and wait for nobody.

    Who has it holds a lock as long as its connection lasts, alone or with others that share it
    (``process_locks.py``). After a restart of PostgreSQL the lock is gone. Those that share it take it again;
    where another process took it for itself meanwhile, that owns the row which each writer has to change, and
    the others are told so.

    Args:
        url: A connection URI of libpq, ``postgresql://user@host/database?sslmode=verify-full``. What it does
            not say comes from libpq's environment variables and its password file.
        option: How the user gave it, for messages.
        may_hold_secrets: Whether nobody but its owner can read it there.
        shared: Several processes may have it, all of which say so.

    Raises:
        UsageError: It is no such URI, holds a password where others can read it, or the database is not in
            UTF-8; or another process has it.
        MissingExtraError: The driver is not installed.
        StorageError: It cannot be reached.
    """

    def __init__(
        self,
        url: str,
        option: str = "--database",
        *,
        may_hold_secrets: bool = False,
        shared: bool = False,
    ) -> None:
        try:
            import psycopg
        except ImportError as error:  # no libpq, too
            raise MissingExtraError(
                f"PostgreSQL needs psycopg, which cannot be imported here: {error}",
                where=option,
                hint="pip install 'ravan-edge[postgresql]'",
            ) from error
        given = _parse(url, option, may_hold_secrets=may_hold_secrets)
        wanted: dict[str, Any] = {**_DEFAULTS, **given}
        engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: psycopg.connect(**wanted),
            pool_size=5,  # one holds the lock
            max_overflow=4,
            pool_pre_ping=True,  # a database that was restarted is not noticed between requests
        )
        event.listen(engine, "connect", _prepare)
        super().__init__(
            engine,
            _shown(given),
            "look whether PostgreSQL runs, lets this user in, and has room; nothing that was "
            "acknowledged is lost",
            _SHARED if shared else secrets.token_hex(16),
            shared=shared,
        )
        self._locks = ProcessLocks(engine, self._where, self._errors, shared=shared)
        try:
            self._check()
            self.alone = self._locks.enter()
            self._make()
        except BaseException:
            self.close()
            raise

    def admit_others(self) -> None:
        """From now on others may open it, too."""
        self._locks.admit_others()

    def hold(self) -> None:
        """Make sure that others still see that this process has it."""
        self._locks.hold()

    @contextmanager
    def only_one(self, work: str) -> Iterator[bool]:
        """Whether this process may do what one of them does at a time."""
        with self._locks.only_one(work) as mine:
            yield mine

    def now(self) -> float:
        """Seconds since 1970, by the clock of the database's machine."""
        with self._errors("read the database"), self._engine.connect() as connection:
            return float(connection.scalar(text(_NOW)) or 0.0)

    def close(self) -> None:
        """Nothing is open after this."""
        self._locks.leave()
        super().close()

    def _begin_writing(self, connection: Connection) -> None:
        """Nothing to do: the first statement begins it, and changes the row that only one may change."""

    def _begin_reading(self, connection: Connection) -> None:
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def _begin_making(self, connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MAKING})

    def _check(self) -> None:
        with self._errors("open the database"), self._engine.connect() as connection:
            encoding = connection.scalar(text("SHOW server_encoding"))
            fsync = connection.scalar(text("SHOW fsync"))
            schema = connection.scalar(text("SELECT current_schema()"))
        if encoding != "UTF8":
            raise UsageError(
                f"the database's encoding is {encoding}, expected UTF8",
                where=self._where,
                hint="make one with: createdb --encoding=UTF8 --template=template0 NAME",
            )
        if schema is None:
            raise StorageError(
                "no schema of the user's search_path exists",
                where=self._where,
                hint="create one, and grant its use to the server's user",
            )
        if fsync != "on":
            log_event(
                _log,
                logging.WARNING,
                Event.DATABASE_UNSAFE,
                "%(where)s runs with fsync=%(fsync)s: a loss of power may take acknowledged updates",
                where=self._where,
                fsync=fsync,
            )


def _prepare(connection: Any, record: object) -> None:  # noqa: ANN401, ARG001  (SQLAlchemy's signature)
    connection.autocommit = True  # what is set must not depend on a transaction's end
    for statement in _SESSION:
        connection.execute(statement)
    connection.autocommit = False


def _parse(url: str, option: str, *, may_hold_secrets: bool) -> dict[str, str]:
    """What a connection URI says. No message repeats any of it: a mistyped one may show a password."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    unknown = UsageError(
        "this is no connection URI of PostgreSQL: expected postgresql://user@host:port/database",
        where=option,
        hint="write @ : / ? # and % of a name or a password as %40 %3A %2F %3F %23 and %25",
    )
    if not url.startswith(_SCHEMES) or "\0" in url:
        raise unknown
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except (ProgrammingError, UnicodeError):
        raise unknown from None
    if _SECRETS & given.keys() and not may_hold_secrets:
        raise UsageError(
            "there is a password in it, and whoever lists this machine's processes sees it",
            where=option,
            hint="put the address into a file that only the server's user may read, for "
            "--database-file; or the password into libpq's password file (PGPASSFILE)",
        )
    host, port, name = (given.get(key, "") for key in ("host", "port", "dbname"))
    # Where "@" or "/" of a password was not escaped, the rest of it stands in these.
    if "@" in host + name or not re.fullmatch(r"[0-9,]*", port):
        raise unknown
    return given


def _shown(given: dict[str, str]) -> str:
    """How messages call it."""
    host, port, name = (given.get(key, "") for key in ("host", "port", "dbname"))
    return f"postgresql://{host}{':' if port else ''}{port}/{name}"
