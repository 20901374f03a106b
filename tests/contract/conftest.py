"""What the contract of a store is held against: SQLite, and a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ravan_server.store import PostgresqlStore, RunRow, SqliteStore, SqlStore
from tests.contract.store_rows import ATTEMPT, DIGEST, VERSION

Opener = Callable[[], SqlStore]


@pytest.fixture(params=["sqlite", "postgresql"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """``opener()``: the store of this test, opened once more; as another process would."""
    if request.param == "sqlite":
        make: Opener = lambda: SqliteStore(tmp_path / "state.sqlite")  # noqa: E731
    else:
        server = request.getfixturevalue("postgresql")
        url = server.url(server.new_database())
        make = lambda: PostgresqlStore(url, shared=True)  # noqa: E731
    with ExitStack() as stack:

        def opened() -> SqlStore:
            store = make()
            stack.callback(store.close)
            store.admit_others()
            return store

        yield opened


@pytest.fixture
def store(opener: Opener) -> SqlStore:
    """With a run that has just begun."""
    store = opener()
    with store.writing() as transaction:
        transaction.begin_run(RunRow(DIGEST, 1_700_000_000.25))
        transaction.add_version(VERSION)
        transaction.add_attempt(ATTEMPT)
    return store
