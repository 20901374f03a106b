"""The address of a PostgreSQL, its secrets, and what the server asks of a database."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ravan_edge.errors import MissingExtraError, StorageError, UsageError
from ravan_server.store import PostgresqlStore, open_store
from tests.services.postgresql import PASSWORD, Postgresql


def stand_still(store: PostgresqlStore, other: PostgresqlStore) -> None:
    """Begin to write, do nothing for a while, and go on. ``other`` writes meanwhile."""
    with store.writing() as transaction:
        transaction._connection.exec_driver_sql("SET idle_in_transaction_session_timeout = '100ms'")
        with other.writing():  # waits until the first is thrown out
            pass
        transaction.devices()


class TestAddress:
    def test_without_the_driver_it_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "psycopg", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'ravan-edge\[postgresql\]'"):
            PostgresqlStore("postgresql://host/name")

    @pytest.mark.parametrize(
        "url",
        [
            "mysql://host/name",
            "state.sqlite",
            "",
            "postgresql://user:pa@ss-word@host/name",
            "postgresql://user:pa/ss-word@host/name",
            "postgresql://user:%zz-ss-word@host/name",
            "postgresql://host:ss-word/name",
            "postgresql://host/name?nonsense=ss-word",
            "postgresql://ho\0st/name",
        ],
    )
    def test_what_is_none_is_refused_without_showing_it(self, url: str) -> None:
        with pytest.raises(UsageError) as caught:
            PostgresqlStore(url, may_hold_secrets=True)
        assert "expected postgresql://" in str(caught.value)
        assert "ss-word" not in str(caught.value)
        assert caught.value.__cause__ is None

    @pytest.mark.parametrize(
        "url", ["postgresql://u:secret@host/name", "postgresql://host/name?password=secret"]
    )
    def test_a_password_in_an_option_is_refused(self, url: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="lists this machine's processes") as caught:
            open_store(tmp_path / "x", url, None)
        assert caught.value.where == "--database"
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        "content", [b"", b"host", b"\xff\xfe", b"postgresql://a b", b"p" * 5000]
    )
    def test_a_file_without_one(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "address"
        path.write_bytes(content)
        with pytest.raises(UsageError, match="this is no address of a database"):
            open_store(tmp_path / "x", None, path)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match=r"[nN]o such file"):
            open_store(tmp_path / "x", None, tmp_path / "nothing")

    def test_two_of_them(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="name one of them"):
            open_store(tmp_path / "x", "postgresql://host/name", tmp_path / "address")

    def test_nobody_is_there(self) -> None:
        with pytest.raises(StorageError) as caught:
            PostgresqlStore("postgresql://user:secret@127.0.0.1:1/name", may_hold_secrets=True)
        assert "postgresql://127.0.0.1:1/name: cannot open the database" in str(caught.value)
        assert "secret" not in str(caught.value)

    def test_a_password_is_in_no_message(self, postgresql: Postgresql, tmp_path: Path) -> None:
        path = tmp_path / "address"
        path.write_text(postgresql.tcp_url(postgresql.new_database(), PASSWORD) + "\n")
        open_store(tmp_path / "x", None, path).close()
        path.write_text(postgresql.tcp_url("postgres", "wrong-secret"))
        with pytest.raises(StorageError, match="password authentication failed") as caught:
            open_store(tmp_path / "x", None, path)
        assert "wrong-secret" not in str(caught.value)

    def test_a_password_can_stand_where_libpq_looks(
        self, postgresql: Postgresql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "passwords"
        path.write_text(f"127.0.0.1:{postgresql.port}:*:ravan:{PASSWORD}\n")
        path.chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(path))
        PostgresqlStore(postgresql.tcp_url(postgresql.new_database())).close()


def opened_shared(url: str) -> PostgresqlStore:
    store = PostgresqlStore(url, shared=True)
    store.admit_others()
    return store


class TestOneProcess:
    def test_a_second_one_is_refused(
        self, postgresql: Postgresql, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ravan_server.store.process_locks._PATIENCE_SECONDS", 0.2)
        url = postgresql.url(postgresql.new_database())
        store = PostgresqlStore(url)
        for shared in (False, True):
            with pytest.raises(UsageError, match="another process has this database"):
                PostgresqlStore(url, shared=shared)
        with store.writing() as transaction:
            transaction.devices()
        store.close()
        both = [opened_shared(url) for _ in range(2)]
        assert [each.alone for each in both] == [True, False]
        with pytest.raises(UsageError, match="another process has this database"):
            PostgresqlStore(url)
        for each in both:
            each.close()

    def test_one_that_lost_its_lock_and_was_followed_cannot_write(
        self, postgresql: Postgresql
    ) -> None:
        name = postgresql.new_database()
        store = PostgresqlStore(postgresql.url(name))
        postgresql.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        with store.writing() as transaction:  # nobody followed
            transaction.devices()
        following = PostgresqlStore(postgresql.url(name))
        with (
            pytest.raises(StorageError, match="has taken this database over"),
            store.writing() as transaction,
        ):
            pytest.fail("it may not write")
        with following.writing() as transaction:
            transaction.devices()
        store.close()
        following.close()


class TestDatabase:
    def test_another_encoding_is_refused(self, postgresql: Postgresql) -> None:
        name = postgresql.new_database("ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
        with pytest.raises(UsageError, match="SQL_ASCII, expected UTF8"):
            PostgresqlStore(postgresql.url(name))

    def test_who_may_make_no_tables_is_told(self, postgresql: Postgresql) -> None:
        name = postgresql.new_database()
        postgresql.execute(f"CREATE USER guest_of_{name}")
        url = postgresql.url(name).replace("//ravan@", f"//guest_of_{name}@")
        with pytest.raises(StorageError, match="permission denied for schema public"):
            PostgresqlStore(url)

    def test_a_commit_waits_for_the_disk_whatever_is_the_default(
        self, postgresql: Postgresql
    ) -> None:
        name = postgresql.new_database()
        for default, found in (("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")):
            postgresql.execute(f"ALTER DATABASE {name} SET synchronous_commit = {default}")
            store = PostgresqlStore(postgresql.url(name))
            with store.engine.connect() as connection:
                shown = connection.exec_driver_sql("SHOW synchronous_commit").scalar()
            store.close()
            assert shown == found

    def test_a_server_whose_disk_is_not_synced_is_named(
        self, postgresql: Postgresql, caplog: pytest.LogCaptureFixture
    ) -> None:
        PostgresqlStore(postgresql.url(postgresql.new_database())).close()
        assert "fsync=off" in caplog.text

    def test_a_writer_that_stands_still_is_thrown_out(self, postgresql: Postgresql) -> None:
        url = postgresql.url(postgresql.new_database())
        store, other = (opened_shared(url) for _ in range(2))
        try:
            with store.engine.connect() as connection:
                limits = [
                    connection.exec_driver_sql(f"SHOW {name}").scalar()
                    for name in ("lock_timeout", "idle_in_transaction_session_timeout")
                ]
            assert limits == ["30s", "1min"]
            with pytest.raises(StorageError, match=r"idle-in-transaction timeout|closed"):
                stand_still(store, other)
        finally:
            store.close()
            other.close()
