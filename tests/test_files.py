from __future__ import annotations

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ravan_edge.errors import StorageError
from ravan_edge.files import sha256_file, storage_errors, write_atomic


def test_the_content_is_all_pieces_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "heads"
    for durable in (True, False):
        write_atomic(path, [b"one", bytearray(b"two"), memoryview(b"three")], durable=durable)
        assert path.read_bytes() == b"onetwothree"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "heads"
    path.write_bytes(b"old")

    def pieces() -> Iterator[bytes]:
        yield b"new"
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_atomic(path, pieces())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_leaves_the_old_content_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "heads"
    path.write_bytes(b"old")

    def fails(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(StorageError) as caught:
        write_atomic(path, [b"new"])
    assert caught.value.where == str(path)
    assert os.strerror(code) in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 9
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_disk_that_is_full_for_real() -> None:
    def fill() -> None:
        with storage_errors("/dev/full", "write the file"), Path("/dev/full").open("wb") as file:
            file.write(b"x" * 100_000)

    with pytest.raises(StorageError, match="free some space"):
        fill()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write the file.*check the path"):
        write_atomic(tmp_path / "no" / "heads", [b""])


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.write_bytes(b"")
    with (
        pytest.raises(StorageError, match="choose another path"),
        storage_errors(path, "make it"),
    ):
        path.mkdir(exist_ok=True)
    with (
        pytest.raises(StorageError, match="where a folder should be"),
        storage_errors(path, "make it"),
    ):
        (path / "below").mkdir()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such bits")
def test_others_may_read_what_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "heads", [b""])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "heads").stat().st_mode) == 0o640


def test_the_digest_of_a_file(tmp_path: Path) -> None:
    content = b"0123456789" * 300_000
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    with pytest.raises(StorageError, match="cannot read"):
        sha256_file(tmp_path / "nothing")
