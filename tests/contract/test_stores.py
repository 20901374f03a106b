"""The contract of a store: one class for each kind of row, SQLite and a real PostgreSQL."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy.exc import IntegrityError

from ravan_edge.errors import StorageError, UsageError
from ravan_server.rounds import AttemptState
from ravan_server.store import RunRow, SqlStore, TaskState, VersionRow, schema
from tests.contract.conftest import Opener
from tests.contract.store_rows import (
    ATTEMPT,
    DIGEST,
    HOSTILE,
    LARGEST,
    VERSION,
    accepted,
    identity,
    invitation,
    stored,
    task,
)


class TestRun:
    def test_an_empty_store_has_no_run(self, opener: Opener) -> None:
        with opener().reading() as transaction:
            assert transaction.run() is None
            assert transaction.devices() == 0
            assert transaction.tasks_out() == []
            assert transaction.identities.last_entry() == 0
            assert transaction.attempt_of(1) is None
            assert transaction.version(0) is None
            with pytest.raises(StorageError, match="no attempt or no version"):
                transaction.attempt()
            with pytest.raises(StorageError, match="no attempt or no version"):
                transaction.latest_version()

    def test_what_was_said_of_it_is_there_after_a_restart(
        self, store: SqlStore, opener: Opener
    ) -> None:
        store.close()
        with opener().reading() as transaction:
            assert transaction.run() == RunRow(DIGEST, 1_700_000_000.25)
            assert transaction.attempt() == ATTEMPT
            assert transaction.latest_version() == VERSION

    def test_there_is_one(self, store: SqlStore) -> None:
        with pytest.raises(IntegrityError), store.writing() as transaction:
            transaction.begin_run(RunRow(DIGEST, 2.0))

    def test_another_schema_is_refused(
        self, store: SqlStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(schema, "SCHEMA_VERSION", 4711)
        with (
            pytest.raises(UsageError, match="this is 4711"),
            store.reading() as transaction,
        ):
            transaction.run()


class TestAttempts:
    def test_every_field_comes_back(self, store: SqlStore) -> None:
        second = replace(
            ATTEMPT,
            id=2,
            round=2,
            seed=0,
            state=AttemptState.CLOSED,
            deadline_at=1.0625,
            ended_at=2.125,
            training=3,
            accepted=2_000_000,
        )
        with store.writing() as transaction:
            transaction.add_attempt(second)
        with store.reading() as transaction:
            assert transaction.attempt() == second
            assert transaction.attempt_of(1) == ATTEMPT
            assert transaction.attempt_of(2) == second

    def test_saving_changes_one_row(self, store: SqlStore) -> None:
        second = replace(ATTEMPT, id=2, round=2)
        with store.writing() as transaction:
            transaction.add_attempt(second)
            transaction.save_attempt(replace(ATTEMPT, state=AttemptState.FAILED, ended_at=9.0))
        with store.reading() as transaction:
            assert transaction.attempt() == second
            assert transaction.attempts(AttemptState.FAILED) == 1
            assert transaction.attempts(AttemptState.OPEN) == 1
            assert transaction.attempts(AttemptState.MERGED) == 0

    def test_an_id_and_a_number_are_given_once(self, store: SqlStore) -> None:
        for same in (ATTEMPT, replace(ATTEMPT, id=2)):
            with pytest.raises(IntegrityError), store.writing() as transaction:
                transaction.add_attempt(same)


class TestDevices:
    def test_numbers(self, store: SqlStore) -> None:
        with store.writing() as transaction:
            transaction.add_devices({"first": 0, "second": 1})
            assert transaction.numbers(["second", "third"]) == {"second": 1}
        with store.reading() as transaction:
            assert transaction.devices() == 2
            assert transaction.numbers([]) == {}
            assert transaction.numbers(["first", "second"]) == {"first": 0, "second": 1}

    def test_names_are_not_code(self, store: SqlStore) -> None:
        names = {HOSTILE[:64]: 0, "Abc": 1, "abc": 2, "abc ": 3, "ä" * 64: 4, "x_y%": 5}
        with store.writing() as transaction:
            transaction.add_devices(names)
        with store.reading() as transaction:
            assert transaction.numbers(list(names)) == names
            assert transaction.numbers(["ABC", "xzyz", "abc  "]) == {}

    def test_ten_thousand_at_once(self, store: SqlStore) -> None:
        names = {f"device-{number:05}": number for number in range(10_000)}
        with store.writing() as transaction:
            transaction.add_devices(names)
            transaction.add_tasks([task(number) for number in range(10_000)])
        with store.writing() as transaction:
            transaction.save_tasks([accepted(number) for number in range(5_000)])
        with store.reading() as transaction:
            assert transaction.devices() == 10_000
            assert transaction.numbers(list(names)) == names
            assert len(transaction.tasks(1)) == 10_000
            assert [row.number for row in transaction.tasks_stored(1)] == list(range(5_000))
            assert [row.number for row in transaction.tasks_out()] == list(range(5_000, 10_000))
        with store.writing() as transaction:
            assert transaction.end_out(TaskState.LATE, 7.0) == 5_000
        with store.reading() as transaction:
            assert transaction.tasks_out() == []


class TestTasks:
    def test_every_field_comes_back(self, store: SqlStore) -> None:
        full = task(
            1,
            task="x" * 64,
            heads_to_train=65_536,
            deadline_at=1_700_000_000.000001,
            ended_at=2.5,
            failure=HOSTILE,
            state=TaskState.ACCEPTED,
            update=stored(
                1,
                segment="s" * 64,
                offset=LARGEST,
                bytes=LARGEST,
                examples=10**18 - 1,
                steps=10**18 - 1,
                count=LARGEST,
                factor=1 << 32,
            ),
        )
        plain = task(2)
        with store.writing() as transaction:
            transaction.add_tasks([full, plain])
        with store.reading() as transaction:
            assert transaction.task("x" * 64) == full
            assert transaction.task(plain.task) == plain
            assert transaction.task("nothing") is None
            assert transaction.task(HOSTILE) is None
            assert transaction.tasks(1) == [full, plain]
            assert transaction.tasks(2) == []

    def test_the_character_0_comes_back_as_another(self, store: SqlStore) -> None:
        with store.writing() as transaction:
            transaction.add_tasks([task(1, failure="a\0b")])
            transaction.save_tasks([task(1, failure="c\0d")])
            transaction.identities.add_invitation(invitation(1, note="\0"))
        with store.reading() as transaction:
            found = transaction.task(task(1).task)
            assert found is not None
            assert found.failure == "c\ufffdd"
            assert transaction.identities.invitations(1)[0].note == "\ufffd"

    def test_saving_changes_what_becomes_of_it(self, store: SqlStore) -> None:
        with store.writing() as transaction:
            transaction.add_tasks([task(number) for number in range(4)])
            changed = [accepted(1), task(2, state=TaskState.GIVEN_BACK, ended_at=3.5, failure="no")]
            transaction.save_tasks(changed)
        with store.reading() as transaction:
            assert transaction.tasks(1) == [task(0), *changed, task(3)]
            assert transaction.tasks_out() == [task(0), task(3)]
            assert transaction.tasks_stored(1) == [accepted(1)]

    def test_a_device_has_one_of_an_attempt(self, store: SqlStore) -> None:
        for same in (task(1, task="another"), task(1, device="another-device")):
            with pytest.raises(IntegrityError), store.writing() as transaction:
                transaction.add_tasks([task(1), same])
        with store.reading() as transaction:
            assert transaction.tasks(1) == []

    def test_a_task_belongs_to_an_attempt(self, store: SqlStore) -> None:
        with pytest.raises(IntegrityError), store.writing() as transaction:
            transaction.add_tasks([task(1, attempt=2)])

    def test_of_a_device_the_one_that_is_out_comes_first(self, store: SqlStore) -> None:
        with store.writing() as transaction:
            transaction.add_attempt(replace(ATTEMPT, id=2, round=2))
            transaction.add_tasks([task(1), task(1, task="second", attempt=2)])
            transaction.save_tasks([task(1, task="second", attempt=2, state=TaskState.LATE)])
        with store.writing() as transaction:
            assert transaction.task_of(2, task(1).device) == task(1)
            transaction.save_tasks([task(1, state=TaskState.LATE)])
            found = transaction.task_of(2, task(1).device)
            assert found is not None
            assert found.task == "second"
            assert transaction.task_of(3, task(1).device) is None
            assert transaction.task_of(1, "nobody") is None

    def test_no_rows_are_no_change(self, store: SqlStore) -> None:
        with store.writing() as transaction:
            transaction.add_tasks([])
            transaction.save_tasks([])
            transaction.add_devices({})
        with store.reading() as transaction:
            assert transaction.tasks(1) == []

    def test_they_come_in_the_order_of_their_assignment(self, store: SqlStore) -> None:
        rows = [task(3), task(1), task(2, assigned_at=task(3).assigned_at), task(0)]
        with store.writing() as transaction:
            transaction.add_tasks(rows)
        with store.reading() as transaction:
            expected = sorted(rows, key=lambda row: (row.assigned_at, row.task))
            assert transaction.tasks(1) == expected
            assert transaction.tasks_out() == expected

    def test_deadlines_that_there_are_can_be_extended(self, store: SqlStore) -> None:
        ended = task(3, state=TaskState.LATE, deadline_at=1.0)
        with store.writing() as transaction:
            transaction.add_tasks([task(1), task(2, deadline_at=1.0), ended])
            transaction.extend_deadlines(9.5)
        with store.reading() as transaction:
            assert transaction.tasks(1) == [task(1), task(2, deadline_at=9.5), ended]

    def test_those_that_started_early_end_alone(self, store: SqlStore) -> None:
        with store.writing() as transaction:
            transaction.add_tasks([task(number, version=number) for number in range(4)])
            assert transaction.end_out(TaskState.STALE, 8.5, before_version=2) == 2
            assert [row.number for row in transaction.tasks_out()] == [2, 3]
            ended = transaction.task(task(0).task)
            assert ended == task(0, state=TaskState.STALE, ended_at=8.5)
            assert transaction.end_out(TaskState.LATE, 9.5) == 2
            assert transaction.end_out(TaskState.LATE, 9.5) == 0

    def test_stored_updates_of_one_attempt_end(self, store: SqlStore) -> None:
        with store.writing() as transaction:
            transaction.add_tasks([accepted(1), accepted(2, counted_in=2), task(3)])
            transaction.end_stored(1, TaskState.MERGED)
            assert [row.state for row in transaction.tasks(1)] == [
                TaskState.MERGED,
                TaskState.ACCEPTED,
                TaskState.TRAINING,
            ]
            assert transaction.tasks_stored(1) == []
            assert transaction.tasks_stored(2) == [accepted(2, counted_in=2)]


class TestVersions:
    def test_every_field_comes_back(self, store: SqlStore) -> None:
        made = VersionRow(
            1, "f" * 64, 1, 1, 2_000_000_000, 3.5, copy_of=0, deleted=True, scores=HOSTILE
        )
        with store.writing() as transaction:
            transaction.add_version(made)
        with store.reading() as transaction:
            assert transaction.latest_version() == made
            assert transaction.version(1) == made
            assert transaction.version(2) is None
            assert transaction.versions() == [VERSION, made]

    def test_saving_changes_one(self, store: SqlStore) -> None:
        changed = replace(VERSION, scores='{"loss": 1.5}', deleted=True)
        with store.writing() as transaction:
            transaction.add_version(replace(VERSION, version=1))
            transaction.save_version(changed)
        with store.reading() as transaction:
            assert transaction.versions() == [changed, replace(VERSION, version=1)]

    def test_which_heads_are_kept(self, store: SqlStore) -> None:
        with store.writing() as transaction:
            assert transaction.keeps(VERSION.heads)
            assert not transaction.keeps("0" * 64)
            assert not transaction.keeps(HOSTILE)
            transaction.save_version(replace(VERSION, deleted=True))
            assert not transaction.keeps(VERSION.heads)

    def test_a_number_is_given_once(self, store: SqlStore) -> None:
        with pytest.raises(IntegrityError), store.writing() as transaction:
            transaction.add_version(VERSION)


class TestIdentities:
    def test_invitations(self, store: SqlStore) -> None:
        rows = [invitation(number, note=f"{number} {HOSTILE}") for number in range(1, 6)]
        with store.writing() as transaction:
            for row in rows:
                transaction.identities.add_invitation(row)
            changed = replace(rows[1], used=2, uses=1_000_000)
            transaction.identities.save_invitation(changed)
        with store.reading() as transaction:
            found = transaction.identities
            assert found.invitation(rows[0].token_sha256) == rows[0]
            assert found.invitation(changed.token_sha256) == changed
            assert found.invitation("0" * 64) is None
            assert found.invitation(HOSTILE) is None
            assert found.invitations(2) == [rows[4], rows[3]]
            assert found.invitations(99) == [rows[4], rows[3], rows[2], changed, rows[0]]

    def test_devices(self, store: SqlStore) -> None:
        rows = [identity(entry) for entry in range(1, 8)]
        with store.writing() as transaction:
            transaction.identities.add_invitation(invitation(1))
            for row in rows:
                transaction.identities.add_identity(row)
            shut_out = replace(rows[5], revoked_at=99.75)
            transaction.identities.save_identity(shut_out)
        with store.reading() as transaction:
            found = transaction.identities
            assert found.last_entry() == 7
            assert found.identity(rows[0].device) == rows[0]
            assert found.identity(shut_out.device) == shut_out
            assert found.identity("nobody") is None
            assert found.identities(0, 3) == rows[:3]
            assert found.identities(5, 99) == [shut_out, rows[6]]
            keys = [(row.device, row.public_key) for row in (rows[6], rows[4], rows[3])]
            assert found.latest_keys(3) == keys

    def test_a_token_a_device_and_an_entry_are_there_once(self, store: SqlStore) -> None:
        with store.writing() as transaction:
            transaction.identities.add_invitation(invitation(1))
            transaction.identities.add_identity(identity(1))
        same_token = replace(invitation(2), token_sha256=invitation(1).token_sha256)
        with pytest.raises(IntegrityError), store.writing() as transaction:
            transaction.identities.add_invitation(same_token)
        for same in (
            identity(1, device="another"),
            identity(2, device=identity(1).device),
            identity(3, invitation=2),
        ):
            with pytest.raises(IntegrityError), store.writing() as transaction:
                transaction.identities.add_identity(same)
