"""The contract of blobs and of the update log: one class, a folder and a real S3-compatible server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from ravan_edge.errors import StorageError
from ravan_server.blobs import (
    Blobs,
    Bucket,
    FolderBlobs,
    FolderUpdateLog,
    S3Blobs,
    S3UpdateLog,
    UpdateLog,
)
from ravan_server.store import StoredUpdate

CONTENTS = [b"", b"x", bytes(range(256)) * 5, b"\0" * 64, b"a" * 65, b"b" * 200_000]


@dataclass(frozen=True)
class Place:
    """Where things are kept: opened anew, as after a restart; and what is there, past the interfaces."""

    log: Callable[[], UpdateLog]
    blobs: Callable[[], Blobs]
    files: Path

    def left(self) -> set[str]:
        """The names of all files that are there."""
        return {path.name for path in self.files.rglob("*") if path.is_file()}

    def damage(self, name: str, content: bytes) -> None:
        """Another content for a file."""
        for path in self.files.rglob(name):
            path.write_bytes(content)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:

        def closed(log: UpdateLog) -> UpdateLog:
            stack.callback(log.close)
            return log

        if request.param == "folder":
            yield Place(
                lambda: closed(FolderUpdateLog(tmp_path / "updates", segment_bytes=300_000)),
                lambda: FolderBlobs(tmp_path / "blobs"),
                tmp_path,
            )
            return
        server = request.getfixturevalue("s3")
        name = server.new_bucket()
        bucket = Bucket(f"s3://{name}/some/prefix", server.endpoint)
        copies = iter(range(1000))
        yield Place(
            lambda: closed(S3UpdateLog(bucket, segment_bytes=300_000)),
            # Each time with an empty folder: what is there must come from the bucket.
            lambda: S3Blobs(bucket, tmp_path / f"copies-{next(copies)}"),
            server.folder / name,
        )


def kept(log: UpdateLog, attempt: int, contents: list[bytes]) -> list[StoredUpdate]:
    """Appended and synced; where each lies."""
    found = []
    for content in contents:
        segment, offset = log.append(attempt, content)
        digest = hashlib.sha256(content).hexdigest()
        found.append(StoredUpdate(digest, segment, offset, len(content), 1, 1, attempt))
    log.sync()
    return found


def ends(updates: list[StoredUpdate]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in updates:
        found[each.segment] = max(found.get(each.segment, 0), each.offset + each.bytes)
    return found


def read(log: UpdateLog, updates: list[StoredUpdate]) -> list[bytes]:
    return [bytes(content) for _, content in log.contents(updates)]


class TestUpdateLog:
    def test_what_was_synced_comes_back(self, place: Place) -> None:
        log = place.log()
        updates = kept(log, 1, CONTENTS[1:])
        assert read(log, updates) == CONTENTS[1:]
        assert read(place.log(), updates[::-1]) == CONTENTS[:0:-1]
        assert read(log, []) == []

    def test_segments_are_of_one_attempt_and_no_larger_than_they_may(self, place: Place) -> None:
        log = place.log()
        first = kept(log, 1, CONTENTS[1:])
        second = kept(log, 2, CONTENTS[1:])
        both = [*first, *second]
        assert {each.segment for each in first}.isdisjoint({each.segment for each in second})
        assert read(log, both) == CONTENTS[1:] * 2
        many = kept(log, 2, [b"c" * 150_000] * 7)
        assert len({each.segment for each in many}) >= 3
        assert all(each.offset <= 300_000 for each in many)
        assert all(len(each.segment) <= 64 for each in both), "a column of the store"
        assert read(log, many) == [b"c" * 150_000] * 7

    def test_two_attempts_in_one_commit(self, place: Place) -> None:
        log = place.log()
        places = [(number, *log.append(number, b"%d" % number)) for number in (1, 2, 1, 2, 10)]
        log.sync()
        updates = [
            StoredUpdate("0" * 64, segment, offset, len(b"%d" % number), 1, 1, number)
            for number, segment, offset in places
        ]
        assert read(log, updates) == [b"1", b"2", b"1", b"2", b"10"]

    def test_what_was_given_up_is_gone_and_the_rest_is_not(self, place: Place) -> None:
        log = place.log()
        before = kept(log, 1, CONTENTS[1:3])
        log.append(1, b"lost" * 1000)
        log.give_up()
        after = kept(log, 1, CONTENTS[3:])
        assert read(log, [*before, *after]) == CONTENTS[1:]
        assert {each.segment for each in [*before, *after]} == place.left()

    def test_an_attempt_is_dropped_and_no_other(self, place: Place) -> None:
        log = place.log()
        one, ten = kept(log, 1, [b"one"]), kept(log, 10, [b"ten"])
        log.drop(1)
        log.drop(1)
        log.drop(7)
        assert read(log, ten) == [b"ten"]
        assert place.left() == {ten[0].segment}
        with pytest.raises(StorageError):
            read(log, one)

    def test_recovery_keeps_what_the_store_knows(self, place: Place) -> None:
        log = place.log()
        known, old = kept(log, 2, CONTENTS[1:3]), kept(log, 1, [b"old"])
        lost = kept(place.log(), 2, [b"never acknowledged"])
        assert {old[0].segment, lost[0].segment} <= place.left()
        again = place.log()
        again.recover(2, ends(known))
        assert read(again, known) == CONTENTS[1:3]
        assert place.left() == {each.segment for each in known}
        again.recover(3, {})
        assert place.left() == set()

    def test_two_processes_never_write_the_same_segment(self, place: Place) -> None:
        first = kept(place.log(), 1, [b"first"])
        second = kept(place.log(), 1, [b"second"])
        assert read(place.log(), [*first, *second]) == [b"first", b"second"]

    def test_bytes_that_are_gone_are_told(self, place: Place) -> None:
        log = place.log()
        updates = kept(log, 1, [b"a" * 200, b"b" * 200])
        place.damage(updates[0].segment, b"a" * 210)
        with pytest.raises(StorageError, match="restore a backup") as caught:
            read(log, updates)
        assert updates[0].segment in str(caught.value)

    def test_thousands_in_one_commit(self, place: Place) -> None:
        log = place.log()
        contents = [b"%06d" % number * 20 for number in range(2000)]
        assert read(log, kept(log, 5, contents)[:300]) == contents[:300]


class TestBlobs:
    def test_what_was_put_comes_back(self, place: Place) -> None:
        blobs = place.blobs()
        digests = [blobs.put(content) for content in CONTENTS]
        assert digests == [hashlib.sha256(content).hexdigest() for content in CONTENTS]
        for again in (blobs, place.blobs()):
            for digest, content in zip(digests, CONTENTS, strict=True):
                path = again.path(digest)
                assert path is not None
                assert path.read_bytes() == content
                assert again.cached(digest) == path, "it is at hand now"

    def test_putting_it_again_changes_nothing(self, place: Place) -> None:
        blobs = place.blobs()
        assert blobs.put(b"x") == blobs.put(b"x") == place.blobs().put(b"x")
        assert len(place.left()) == 1

    @pytest.mark.parametrize("digest", ["0" * 64, "", "..", "../run", "a/b", "%2e"])
    def test_what_is_not_there_is_not_found(self, place: Place, digest: str) -> None:
        blobs = place.blobs()
        if digest not in {"", ".."}:
            assert blobs.path(digest) is None
            assert blobs.cached(digest) is None

    def test_what_was_deleted_is_gone(self, place: Place) -> None:
        blobs = place.blobs()
        digest, other = blobs.put(b"x"), blobs.put(b"y")
        blobs.delete(digest)
        blobs.delete(digest)
        for again in (blobs, place.blobs()):
            assert again.path(digest) is None
            assert again.path(other) is not None
        assert blobs.put(b"x") == digest
        assert blobs.path(digest) is not None

    def test_all_others_can_be_deleted(self, place: Place) -> None:
        blobs = place.blobs()
        digests = [blobs.put(content) for content in CONTENTS]
        blobs.keep({digests[1], "f" * 64})
        for again in (blobs, place.blobs()):
            assert again.path(digests[1]) is not None
            assert [again.path(digest) for digest in digests].count(None) == len(CONTENTS) - 1

    def test_it_can_be_claimed_again_by_the_same(self, place: Place) -> None:
        for _ in range(2):
            place.blobs().claim("a run")
