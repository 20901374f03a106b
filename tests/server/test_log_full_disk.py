"""A full disk is not filled further by the updates that found no room on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ravan_edge.errors import StorageError
from ravan_server.blobs import FolderUpdateLog
from ravan_server.store import StoredUpdate


def stored(segment: str, offset: int, size: int) -> StoredUpdate:
    return StoredUpdate("0" * 64, segment, offset, size, 1, 1, counted_in=1)


def test_what_was_given_up_leaves_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FolderUpdateLog(tmp_path / "updates")
    kept = log.append(1, b"a" * 1000)
    log.sync()
    write = os.pwrite

    def full(descriptor: int, content: memoryview, offset: int) -> int:
        if offset % 64:
            raise OSError(28, "No space left on device")
        return write(descriptor, content[:500], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        for _ in range(5):
            with pytest.raises(StorageError, match="No space"):
                log.append(1, b"b" * 1000)
            log.give_up()
    assert [path.stat().st_size for path in log._folder.iterdir()] == [1024]  # its end, filled up
    again = log.append(1, b"c" * 1000)
    log.sync()
    found = [
        bytes(content)
        for _, content in log.contents([stored(*each, 1000) for each in (kept, again)])
    ]
    assert found == [b"a" * 1000, b"c" * 1000]
    assert again[0] != kept[0], "a segment that was given up is never written again"
    log.close()
    assert len(list(log._folder.iterdir())) == 2
