"""The contract of a store: all or nothing, one moment for readers, one writer; SQLite and PostgreSQL."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest

from ravan_edge.errors import StorageError
from ravan_server.store import MERGING, SCORING, SqlStore, TaskState
from tests.contract.conftest import Opener
from tests.contract.store_rows import ATTEMPT, accepted, identity, invitation, task


class TestTransactions:
    def test_a_block_that_raises_is_undone(self, store: SqlStore) -> None:
        with store.reading() as transaction:
            before = transaction.revision

        def interrupted() -> None:
            with store.writing() as transaction:
                transaction.add_devices({"lost": 0})
                transaction.save_attempt(replace(ATTEMPT, accepted=5))
                transaction.add_tasks([task(1)])
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        with store.reading() as transaction:
            assert transaction.attempt() == ATTEMPT
            assert transaction.devices() == 0
            assert transaction.tasks(1) == []
            assert transaction.revision == before
        with store.writing() as transaction:
            transaction.add_devices({"kept": 0})

    def test_every_one_that_writes_is_counted(self, store: SqlStore, opener: Opener) -> None:
        other = opener()
        with store.reading() as transaction:
            before = transaction.revision
        for number, each in enumerate((store, other, store), start=1):
            with each.writing() as transaction:
                assert transaction.revision == before + number
        with other.reading() as transaction:
            assert transaction.revision == before + 3

    def test_what_was_written_since_can_be_asked_for_where_others_write(
        self, store: SqlStore, opener: Opener
    ) -> None:
        other = opener()
        with store.writing() as transaction:
            transaction.add_tasks([task(number) for number in range(4)])
            since = transaction.revision
        with other.writing() as transaction:
            transaction.add_tasks([task(4)])
            transaction.save_tasks([accepted(2)])
        if not store.shared:  # a process that is alone pays nothing for it
            with store.reading() as transaction:
                assert transaction.tasks_written(0) == []
            return
        with store.reading() as transaction:
            assert [row.number for row in transaction.tasks_written(0)] == [0, 1, 2, 3, 4]
            assert transaction.tasks_written(since) == [accepted(2), task(4)]
            assert transaction.tasks_written(since + 1) == []
            since = transaction.revision
        with other.writing() as transaction:
            transaction.end_stored(1, TaskState.MERGED)
        with other.writing() as transaction:
            transaction.save_tasks([task(0, state=TaskState.GIVEN_BACK)])
        with other.writing() as transaction:
            transaction.end_out(TaskState.LATE, 9.5)
        with store.reading() as transaction:
            for revision, numbers in enumerate(([0, 1, 2, 3, 4], [0, 1, 3, 4], [1, 3, 4], [])):
                found = transaction.tasks_written(since + revision)
                assert [row.number for row in found] == numbers

    def test_devices_that_were_shut_out_since(self, store: SqlStore, opener: Opener) -> None:
        other, rows = opener(), [identity(entry) for entry in range(1, 4)]
        with store.writing() as transaction:
            transaction.identities.add_invitation(invitation(1))
            for row in rows:
                transaction.identities.add_identity(row)
        for row in rows[:2]:
            with other.writing() as transaction:
                transaction.identities.save_identity(replace(row, revoked_at=9.5))
        with store.reading() as transaction:
            last, find = transaction.revision, transaction.identities.revoked_after
            assert sorted(find(0)) == sorted(find(last - 2)) == [row.device for row in rows[:2]]
            assert find(last - 1) == [rows[1].device]
            assert find(last) == []

    def test_a_recovery_says_when_it_was(self, store: SqlStore, opener: Opener) -> None:
        with store.reading() as transaction:
            assert transaction.recovered == 0
        with opener().writing() as transaction:
            transaction.mark_recovered()
        with store.reading() as transaction:
            assert transaction.recovered == transaction.revision > 0

    def test_work_of_one(self, store: SqlStore, opener: Opener) -> None:
        other = opener()
        with store.only_one(MERGING) as mine, store.only_one(SCORING) as as_well:
            assert mine
            assert as_well
            with other.only_one(MERGING) as others:
                assert others is not store.shared, "a folder has a lock of its own"
        with other.only_one(MERGING) as others:
            assert others

    def test_its_clock_is_about_right(self, store: SqlStore) -> None:
        assert abs(store.now() - time.time()) < 60

    def test_a_reader_sees_one_moment(self, store: SqlStore, opener: Opener) -> None:
        other = opener()
        with store.reading() as reader:
            assert reader.attempt() == ATTEMPT
            with other.writing() as transaction:  # waits for no reader
                transaction.save_attempt(replace(ATTEMPT, accepted=1))
                transaction.add_tasks([task(1)])
                assert reader.tasks(1) == []
            assert reader.attempt() == ATTEMPT
            assert reader.tasks(1) == []
        with store.reading() as reader:
            assert reader.attempt().accepted == 1
            assert reader.tasks(1) == [task(1)]

    def test_a_reader_that_writes_changes_nothing(self, store: SqlStore) -> None:
        # PostgreSQL says so; SQLite forgets it.
        with suppress(StorageError), store.reading() as transaction:
            transaction.save_attempt(replace(ATTEMPT, accepted=1))
        with store.reading() as transaction:
            assert transaction.attempt() == ATTEMPT

    @pytest.mark.parametrize("processes", [1, 2])
    def test_writers_follow_each_other(
        self, store: SqlStore, opener: Opener, processes: int
    ) -> None:
        stores = [store, opener()][:processes]

        def add(each: SqlStore) -> None:
            for _ in range(25):
                with each.writing() as transaction:
                    attempt = transaction.attempt()
                    transaction.save_attempt(replace(attempt, accepted=attempt.accepted + 1))

        threads = [threading.Thread(target=add, args=(each,)) for each in stores * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        with store.reading() as transaction:
            assert transaction.attempt().accepted == 25 * len(threads)

    def test_many_readers_at_once(self, store: SqlStore) -> None:
        found = []

        def look() -> None:
            for _ in range(20):
                with store.reading() as transaction:
                    found.append(transaction.attempt())

        threads = [threading.Thread(target=look) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == [ATTEMPT] * 240

    def test_it_can_be_opened_again_and_again(self, store: SqlStore, opener: Opener) -> None:
        for _ in range(3):
            with opener().reading() as transaction:
                assert transaction.attempt() == ATTEMPT
