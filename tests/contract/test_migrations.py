"""A database of an older version becomes today's, in SQLite and PostgreSQL, and its run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine, inspect, select, text

from ravan_edge.artifact import Artifact
from ravan_edge.errors import UsageError
from ravan_edge.protocol import InviteDevices
from ravan_edge.signing import device_of_key
from ravan_edge.training import LocalSettings
from ravan_server.serving import DATABASE_NAME
from ravan_server.settings import RoundSettings, ServerSettings
from ravan_server.store import PostgresqlStore, SqliteStore, SqlStore, schema
from tests.contract import schema_2
from tests.server.server_kit import (
    Clock,
    Counted,
    ask,
    device_update,
    merged_heads,
    opened_server,
    send,
    wait_for,
)
from tests.tiny_artifact import make_tiny_artifact

ROUNDS = RoundSettings(local=LocalSettings(local_steps=1), goal=2, over_selection=1.5)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("migrations") / "artifact")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ServerSettings, Any]:
    """What a server is told, and what opens the same store."""
    opens: Callable[[], SqlStore]
    if request.param == "sqlite":
        return ServerSettings(), lambda: SqliteStore(tmp_path / DATABASE_NAME)
    server = request.getfixturevalue("postgresql")
    url = server.url(server.new_database())
    opens = lambda: PostgresqlStore(url)  # noqa: E731
    return ServerSettings(database=url), opens


def to_schema_2(engine: Engine) -> None:
    """The same run in the tables of schema 2."""
    rows: dict[str, list[dict[str, Any]]] = {}
    with engine.begin() as connection:
        for name, table in schema.metadata.tables.items():
            found = connection.execute(select(table)).mappings().all()
            rows[name] = [dict(row) for row in found]
        schema.metadata.drop_all(connection)
    for row in rows["run"]:
        row["schema_version"] = 2
    for row in rows["attempts"]:
        settings = json.loads(row["settings"])
        assert settings.pop("rule")
        row["settings"] = json.dumps(settings)
    for row in rows["tasks"]:
        row["weight"] = row["count"]
    with engine.begin() as connection:
        schema_2.metadata.create_all(connection)
        for table in schema_2.metadata.sorted_tables:
            for row in rows[table.name]:
                known = {name: row[name] for name in [column.name for column in table.columns]}
                connection.execute(table.insert(), known)


def shape(engine: Engine) -> dict[str, Any]:
    """Tables, columns and indexes, but for the order of columns."""
    looked = inspect(engine)
    return {
        name: (
            sorted((each["name"], each["nullable"]) for each in looked.get_columns(name)),
            sorted((each["name"], each["unique"]) for each in looked.get_indexes(name)),
            looked.get_pk_constraint(name)["constrained_columns"],
            sorted(each["referred_table"] for each in looked.get_foreign_keys(name)),
        )
        for name in sorted(looked.get_table_names())
    }


def test_a_run_of_schema_2_goes_on(
    artifact: Artifact, tmp_path: Path, database: tuple[ServerSettings, Any]
) -> None:
    settings, opens = database
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, settings) as server:
        for number in range(2):
            offer = ask(server, f"device-{number:03}")
            send(server, device_update(artifact, offer), offer.task)
        wait_for(server, 1)
        offers = [ask(server, f"device-{number:03}") for number in range(3)]
        send(server, device_update(artifact, offers[0]), offers[0].task)
        status, first = server.status(), server.blob(server.status().heads)
    store = opens()
    today = shape(store.engine)
    with store.reading() as transaction:
        before = [transaction.tasks(1), transaction.tasks(2), transaction.attempt_of(1)]
        attempt = transaction.attempt()
    to_schema_2(store.engine)
    assert not inspect(store.engine).has_table("writes")
    store.close()

    store = opens()
    assert shape(store.engine) == today
    with store.reading() as transaction:
        assert [transaction.tasks(1), transaction.tasks(2), transaction.attempt_of(1)] == before
        assert transaction.attempt() == attempt
        assert transaction.run() is not None
    store.close()

    with opened_server(artifact, tmp_path, Clock(), ROUNDS, settings) as server:
        assert server.status() == status
        send(server, device_update(artifact, offers[1]), offers[1].task)
        wait_for(server, 2)
        counted = [Counted(number, 1) for number in range(2)]
        found = server.blob(server.status().heads).read_bytes()
        assert found == merged_heads(artifact, first, counted, 1, most=2)


def test_tables_of_schema_3_become_todays(
    artifact: Artifact, tmp_path: Path, database: tuple[ServerSettings, Any]
) -> None:
    settings, opens = database
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, settings) as server:
        offer = ask(server, "device-000")
        invited = server.members.invite(InviteDevices(uses=2))
        keys = [Ed25519PrivateKey.generate().public_key().public_bytes_raw() for _ in range(2)]
        for key in keys:
            server.members.enrol(invited.token, key.hex()).result(30)
        server.members.revoke(device_of_key(keys[0]))
    store = opens()
    today = shape(store.engine)
    with store.engine.begin() as connection:
        for statement in (
            "DROP INDEX tasks_written",
            "DROP INDEX identities_revoked",
            "ALTER TABLE tasks DROP COLUMN revision",
            "ALTER TABLE identities DROP COLUMN revoked_in",
            "ALTER TABLE writes DROP COLUMN recovered",
            "UPDATE run SET schema_version = 3",
        ):
            connection.execute(text(statement))
        revision = connection.scalar(text("SELECT revision FROM writes"))
    store.close()
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, settings) as server:
        send(server, device_update(artifact, offer), offer.task)
    store = opens()
    assert shape(store.engine) == today
    with store.reading() as transaction:
        assert transaction.revision > revision
        assert transaction.identities.revoked_after(-1) == [device_of_key(keys[0])]
        assert transaction.identities.revoked_after(0) == []
    store.close()


def test_a_step_that_fails_changes_nothing(
    artifact: Artifact,
    tmp_path: Path,
    database: tuple[ServerSettings, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, opens = database
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, settings) as server:
        ask(server, "device-000")
    store = opens()
    to_schema_2(store.engine)
    store.close()

    def interrupted(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ravan_server.store.migrations.json.dumps", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opens()
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, settings) as server:
        assert server.status().training == 1


@pytest.mark.parametrize("version", [1, schema.SCHEMA_VERSION + 1])
def test_another_version_is_refused_and_left_as_it_is(
    artifact: Artifact, tmp_path: Path, database: tuple[ServerSettings, Any], version: int
) -> None:
    settings, opens = database
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, settings):
        pass
    store = opens()
    with store.engine.begin() as connection:
        connection.execute(text(f"UPDATE run SET schema_version = {version}"))
        connection.execute(text("DROP TABLE writes"))
    store.close()
    with pytest.raises(UsageError, match=f"the state has schema {version}, this is"):
        opens()
    if isinstance(store, SqliteStore):
        with store.engine.connect() as connection:
            assert not inspect(connection).has_table("writes")


def test_tables_of_a_run_that_never_began_are_made_anew(
    artifact: Artifact, tmp_path: Path, database: tuple[ServerSettings, Any]
) -> None:
    settings, opens = database
    store = opens()
    with store.engine.begin() as connection:
        schema.metadata.drop_all(connection)
        schema_2.metadata.create_all(connection)
    store.close()
    with opened_server(artifact, tmp_path, Clock(), ROUNDS, settings) as server:
        assert ask(server, "device-000").answer == "task"
