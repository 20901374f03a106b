"""A real S3-compatible server on a folder, started by the tests: VersityGW, which checks signatures."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

__all__ = ["ACCESS_KEY", "SECRET_KEY", "S3Server", "missing_s3", "s3_server"]

ACCESS_KEY = "ravan-tests"
SECRET_KEY = "never/in+a-log"
_SECONDS = 60
_names = count()


def _program() -> str | None:
    beside = Path(sys.executable).parent / "versitygw"
    return str(beside) if beside.exists() else shutil.which("versitygw")


def missing_s3() -> str | None:
    """Why there is none; None: there is."""
    return None if _program() else "no S3-compatible server here: make s3-server builds VersityGW"


@dataclass
class S3Server:
    """One server; buckets are folders of ``folder``."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def new_bucket(self) -> str:
        """The name of an empty bucket."""
        name = f"bucket-{next(_names)}"
        (self.folder / name).mkdir()
        return name

    def start(self) -> None:
        """Until it takes connections."""
        program = _program()
        assert program is not None
        command = [program, "--quiet", "--port", f"127.0.0.1:{self.port}", "posix"]
        self.process = subprocess.Popen(
            [*command, str(self.folder)],
            env={"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + _SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                assert self.process.poll() is None, "it ended"
                assert time.monotonic() < until, "it does not answer"
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """At once."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(_SECONDS)
        self.process = None


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A server that ends with the block."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    server = S3Server(folder, port)
    server.start()
    try:
        yield server
    finally:
        if server.process is not None:
            server.stop()
