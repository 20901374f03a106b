"""The database lies in the state folder, whatever that is called."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ravan_server.store import SqliteStore


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b", "a b", "a:b@c"])
def test_the_database_is_where_it_is_said_to_be(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    SqliteStore(folder / "state.sqlite").close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (folder / "state.sqlite").is_file()
