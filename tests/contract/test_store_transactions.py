"""The contract of a store: all or nothing, one moment for readers, one writer; SQLite and PostgreSQL."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace

import pytest

from ravan_edge.errors import StorageError
from ravan_server.store import SqlStore
from tests.contract.conftest import Opener
from tests.contract.store_rows import ATTEMPT, task


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
