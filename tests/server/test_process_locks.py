"""Which processes have a PostgreSQL database, and which of them does what only one may do at a time."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import OperationalError

from ravan_edge.errors import StorageError, UsageError
from ravan_server.store import MERGING, PostgresqlStore
from tests.services.postgresql import Postgresql


def lost(*_: object, **__: object) -> bool:
    raise OperationalError("SELECT 1", {}, Exception("the network is cut again"))


def test_one_at_a_time_comes_in(postgresql: Postgresql, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first recovers the run, others wait at the door; if it dies there, the next recovers."""
    url = postgresql.url(postgresql.new_database())
    first = PostgresqlStore(url, shared=True)
    assert first.alone
    monkeypatch.setattr("ravan_server.store.process_locks._DOOR_SECONDS", 0.2)
    with pytest.raises(UsageError, match="another process has this database"):
        PostgresqlStore(url, shared=True)
    first.close()  # it never came to let others in
    second = PostgresqlStore(url, shared=True)
    assert second.alone
    second.admit_others()
    third = PostgresqlStore(url, shared=True)
    assert not third.alone
    third.admit_others()
    second.close()
    fourth = PostgresqlStore(url, shared=True)
    assert not fourth.alone, "the third one is there"
    for store in (third, fourth):
        store.close()


def test_work_of_one_is_free_when_it_ends(postgresql: Postgresql) -> None:
    url = postgresql.url(postgresql.new_database())
    first = PostgresqlStore(url, shared=True)
    first.admit_others()
    second = PostgresqlStore(url, shared=True)
    second.admit_others()
    for one, other in ((first, second), (second, first)):
        with one.only_one(MERGING) as mine, other.only_one(MERGING) as others:
            assert mine
            assert not others
        with pytest.raises(ZeroDivisionError), one.only_one(MERGING):
            _ = 1 / 0
    for store in (first, second):
        store.close()


def test_a_lost_connection_is_made_again(
    postgresql: Postgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ravan_server.store.process_locks._LOOK_SECONDS", 0.0)
    monkeypatch.setattr("ravan_server.store.process_locks._PATIENCE_SECONDS", 0.2)
    name = postgresql.new_database()
    store = PostgresqlStore(postgresql.url(name), shared=True)
    store.admit_others()
    cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    postgresql.execute(cut)
    store.hold()
    with pytest.raises(UsageError, match="another process has this database"):
        PostgresqlStore(postgresql.url(name))
    postgresql.execute(cut)
    with monkeypatch.context() as patch:
        patch.setattr("ravan_server.store.process_locks._take", lost)
        for _ in range(2):
            with pytest.raises(StorageError, match="the network is cut again"):
                store.hold()
    store.hold()
    with pytest.raises(UsageError, match="another process has this database"):
        PostgresqlStore(postgresql.url(name))
    postgresql.execute(cut)
    alone = PostgresqlStore(postgresql.url(name))
    with pytest.raises(StorageError, match="has taken this database over"):
        store.hold()
    alone.close()
    store.close()
