"""Downloads that are cut, gone on with, or not what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravan_edge.errors import StorageError
from ravan_edge.protocol import Reason, Refusal
from tests.device.fake_server import CONTENT, DIGEST, BlobServer, Pieces, always, connection


def test_a_download_is_there_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "heads"
    with connection(BlobServer()) as server:
        server.download(DIGEST, path, len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
@pytest.mark.parametrize("cut", [0, 1, 5000, len(CONTENT)])
def test_a_download_that_is_cut_is_gone_on_with(tmp_path: Path, cut: int, ranges: bool) -> None:
    """Also when everything arrived but the end, and from a server that knows no ranges."""
    path = tmp_path / "heads"
    broken, whole = BlobServer(cut), BlobServer(ranges=ranges)
    with connection(broken) as server, pytest.raises(StorageError, match="connection reset"):
        server.download(DIGEST, path, len(CONTENT))
    assert not path.exists()
    assert (tmp_path / "heads.part").read_bytes() == CONTENT[:cut]
    with connection(whole) as server:
        server.download(DIGEST, path, len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [path]
    headers = whole.requests[0].headers
    assert headers.get("range") == (f"bytes={cut}-" if cut else None)
    assert headers.get("if-range") == (f'"{DIGEST}"' if cut else None)


def test_a_download_takes_many_interruptions(tmp_path: Path) -> None:
    path = tmp_path / "heads"
    blobs = BlobServer(3000)
    with connection(blobs) as server:
        for _ in range(3):
            with pytest.raises(StorageError, match="connection reset"):
                server.download(DIGEST, path, len(CONTENT))
        blobs.cut = None
        server.download(DIGEST, path, len(CONTENT))
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "left", [b"something else", CONTENT + b"more"], ids=["another", "too-long"]
)
def test_what_another_download_left_costs_one_try(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "heads"
    (tmp_path / "heads.part").write_bytes(left)
    with connection(BlobServer()) as server:
        with pytest.raises(StorageError, match=r"something else, or too long.*try again"):
            server.download(DIGEST, path, len(CONTENT))
        assert not list(tmp_path.iterdir())
        server.download(DIGEST, path, len(CONTENT))
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT[:-1] + b"x", CONTENT + b"x"])
def test_content_that_is_not_its_digest_is_not_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "heads"
    path.write_bytes(b"what was there before")
    with (
        connection(BlobServer(content=content)) as server,
        pytest.raises(StorageError, match="something else, or too long"),
    ):
        server.download(DIGEST, path, len(CONTENT))
    assert path.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_download_without_end_is_left(tmp_path: Path) -> None:
    endless = Pieces(*([b" " * 1000] * 1000))
    with (
        connection(always(200, stream=endless)) as server,
        pytest.raises(StorageError, match="too long"),
    ):
        server.download(DIGEST, tmp_path / "heads", len(CONTENT))
    assert endless.asked == 11


def test_a_refused_download_keeps_what_there_is(tmp_path: Path) -> None:
    part = tmp_path / "heads.part"
    part.write_bytes(CONTENT[:100])
    document = Refusal(Reason.NO_SUCH_BLOB, "it is gone").problem.model_dump(mode="json")
    with connection(always(404, document=document)) as server, pytest.raises(Refusal):
        server.download(DIGEST, tmp_path / "heads", len(CONTENT))
    assert part.read_bytes() == CONTENT[:100]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with connection(BlobServer()) as server, pytest.raises(StorageError, match="missing"):
        server.download(DIGEST, tmp_path / "missing" / "heads", len(CONTENT))
