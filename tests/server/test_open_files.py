"""The limit of open files: raised as far as the system allows, and connections that fit into it."""

from __future__ import annotations

import subprocess
import sys

import pytest

resource = pytest.importorskip("resource")

PROGRAM = """
import logging, resource, sys
from ravan_server.open_files import open_files
from ravan_server.serving import _limits
from ravan_server.settings import ServerSettings
soft, hard, typed = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(soft), int(hard)))
logging.basicConfig(stream=sys.stderr, format="%(message)s")
limits = _limits(ServerSettings(connections=int(typed) or None))
print(limits.connections, *resource.getrlimit(resource.RLIMIT_NOFILE))
assert open_files(1) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
"""


def limits(soft: int, hard: int, typed: int) -> tuple[list[int], str]:
    """What a process with these limits comes to, and what it says."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(soft), str(hard), str(typed)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(word) for word in done.stdout.split()], done.stderr


def test_the_soft_limit_is_raised_and_what_fits_needs_no_warning() -> None:
    assert limits(soft=512, hard=3000, typed=2500) == ([2500, 3000, 3000], "")


def test_the_default_is_what_fits() -> None:
    assert limits(soft=512, hard=3000, typed=0) == ([3000 - 256, 3000, 3000], "")


def test_a_number_that_was_typed_and_does_not_fit_is_a_warning() -> None:
    found, said = limits(soft=512, hard=3000, typed=20_000)
    assert found == [3000 - 256, 3000, 3000]
    assert said.strip() == (
        "this process may have 3000 open files: at most 2744 connections, not 20000"
    )
