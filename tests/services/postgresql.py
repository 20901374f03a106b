"""A real PostgreSQL in a folder of its own, started by the tests: never the one of the system."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

__all__ = [
    "PASSWORD",
    "Postgresql",
    "missing_postgresql",
    "postgresql_binaries",
    "postgresql_server",
]

PASSWORD = "never-in-a-log"
_SECONDS = 60
_names = count()


def postgresql_binaries() -> Path | None:
    """The folder with initdb: Debian keeps it out of the PATH."""
    found = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    folders += [Path(found).resolve().parent] if found else []
    return next((each for each in folders if (each / "initdb").exists()), None)


def missing_postgresql() -> str | None:
    """Why there is none; None: there is."""
    if postgresql_binaries() is None:
        return "no PostgreSQL here: apt-get install postgresql"
    return None


def _somebody() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    return {"user": "nobody", "group": "nogroup", "extra_groups": []}


@dataclass
class Postgresql:
    """One server, reachable by a socket without a password, and by TCP with one."""

    folder: Path
    port: int
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def url(self, database: str) -> str:
        """Through the socket."""
        return f"postgresql://ravan@/{database}?host={self.folder}&port={self.port}"

    def tcp_url(self, database: str, password: str = "") -> str:
        """Through TCP."""
        secret = f":{password}" if password else ""
        return f"postgresql://ravan{secret}@127.0.0.1:{self.port}/{database}"

    def new_database(self, options: str = "") -> str:
        """The name of an empty database."""
        name = f"test_{os.getpid()}_{next(_names)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0 {options}")
        return name

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """As the superuser; the rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Until it takes connections."""
        binaries = postgresql_binaries()
        assert binaries is not None
        command = [binaries / "postgres", "-D", self.folder / "data", "-k", self.folder]
        command += ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1", *self.options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, **_somebody()
            )
        until = time.monotonic() + _SECONDS
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                gone = self.process.poll() is not None
                if gone or time.monotonic() > until:
                    raise AssertionError((self.folder / "log").read_text()) from None
                time.sleep(0.02)
            else:
                return

    def stop(self, *, kill: bool = False) -> None:
        """At once, cutting all connections; with ``kill`` as a crash does, without a last checkpoint."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT if kill else signal.SIGINT)
        self.process.wait(_SECONDS)
        self.process = None


@contextmanager
def postgresql_server(*options: str) -> Iterator[Postgresql]:
    """A server that ends with the block; options as ``postgres`` takes them."""
    binaries = postgresql_binaries()
    assert binaries is not None
    folder = Path(tempfile.mkdtemp(prefix="ravan-postgresql-"))
    try:
        somebody = _somebody()
        if somebody:
            shutil.chown(folder, somebody["user"], somebody["group"])
        password = folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        command = [binaries / "initdb", "-D", folder / "data", "-U", "ravan", "--no-sync"]
        command += ["--encoding=UTF8", "--locale=C.UTF-8", "--auth-local=trust"]
        command += ["--auth-host=scram-sha-256", f"--pwfile={password}"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, **somebody)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        server = Postgresql(folder, port, options)
        server.start()
        try:
            yield server
        finally:
            if server.process is not None:
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
