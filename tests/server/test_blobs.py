"""GET /v1/blobs/{digest}: what devices download, whole or in part."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import warnings
from pathlib import Path

import pytest
from starlette.datastructures import Headers
from starlette.types import Message

from ravan_edge.artifact import Artifact
from ravan_edge.protocol import Reason, Refusal
from ravan_server.http.downloads import download
from tests.server.conftest import Serve, Served
from tests.server.devices import offered, path_of, update_of


def base_of(artifact: Artifact) -> tuple[str, bytes]:
    """The digest and the content of the largest file."""
    return (
        artifact.manifest.files["base.safetensors"].sha256,
        (artifact.folder / "base.safetensors").read_bytes(),
    )


def test_the_manifest_and_every_file_that_it_names_can_be_fetched(shared: Served) -> None:
    artifact = shared.artifact
    manifest = shared.client.get(f"/v1/blobs/{artifact.digest}")
    assert manifest.body == (artifact.folder / "manifest.json").read_bytes()
    for name, entry in artifact.manifest.files.items():
        answer = shared.client.get(f"/v1/blobs/{entry.sha256}")
        assert answer.status == 200
        assert answer.body == (artifact.folder / name).read_bytes()
        assert hashlib.sha256(answer.body).hexdigest() == entry.sha256
        assert answer.headers["content-length"] == str(len(answer.body)) == str(entry.size)
        assert answer.headers["content-type"] == "application/octet-stream"


def test_merged_heads_are_a_blob(serve: Serve) -> None:
    served = serve(goal=1)
    first = served.status.heads
    offer = offered(served.client)
    served.client.put(path_of(offer), update_of(served.artifact, offer))
    status = served.until(lambda status: status.version == 1)
    assert status.heads != first
    for digest in (first, status.heads):
        answer = served.client.get(f"/v1/blobs/{digest}")
        assert hashlib.sha256(answer.body).hexdigest() == digest


def test_a_blob_may_be_kept_for_ever(shared: Served) -> None:
    digest, content = base_of(shared.artifact)
    answer = shared.client.get(f"/v1/blobs/{digest}")
    assert answer.body == content
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["etag"] == f'"{digest}"'
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', '"other", "{}"', 'W/"{}","other"', "*"])
def test_who_has_it_gets_nothing_again(shared: Served, form: str) -> None:
    digest, _ = base_of(shared.artifact)
    answer = shared.client.get(f"/v1/blobs/{digest}", if_none_match=form.format(digest))
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["etag"] == f'"{digest}"'
    assert answer.headers["cache-control"].endswith("immutable")


@pytest.mark.parametrize("form", ['"other"', "{}", '"', "", 'w/"{}"'])
def test_who_has_something_else_gets_it_all(shared: Served, form: str) -> None:
    digest, content = base_of(shared.artifact)
    answer = shared.client.get(f"/v1/blobs/{digest}", if_none_match=form.format(digest))
    assert (answer.status, answer.body) == (200, content)


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=100-", 100, None),
        ("bytes=-7", -7, None),
        ("bytes=5-999999999", 5, None),
        ("bytes=-999999999", 0, None),
        ("Bytes=1-2", 1, 3),
    ],
)
def test_a_part_can_be_fetched(shared: Served, asked: str, first: int, end: int | None) -> None:
    digest, content = base_of(shared.artifact)
    answer = shared.client.get(f"/v1/blobs/{digest}", range=asked)
    expected = content[first:end]
    start = len(content) + first if first < 0 else first
    assert (answer.status, answer.body) == (206, expected)
    assert answer.headers["content-length"] == str(len(expected))
    assert answer.headers["content-range"] == (
        f"bytes {start}-{start + len(expected) - 1}/{len(content)}"
    )
    assert answer.headers["etag"] == f'"{digest}"'


def test_a_download_can_go_on_at_any_byte(shared: Served) -> None:
    entry = shared.artifact.manifest.files["heads.safetensors"]
    content = (shared.artifact.folder / "heads.safetensors").read_bytes()
    for start in range(len(content)):
        answer = shared.client.get(
            f"/v1/blobs/{entry.sha256}", range=f"bytes={start}-", if_range=f'"{entry.sha256}"'
        )
        assert content[:start] + answer.body == content


def test_a_part_of_something_else_is_the_whole(shared: Served) -> None:
    digest, content = base_of(shared.artifact)
    answer = shared.client.get(f"/v1/blobs/{digest}", range="bytes=5-", if_range='"other"')
    assert (answer.status, answer.body) == (200, content)


@pytest.mark.parametrize("asked", ["lines=1-2", "bytes", "bytes=", "bytes=a-b", "bytes=9-2", ""])
def test_a_range_that_is_none_is_not_looked_at(shared: Served, asked: str) -> None:
    digest, content = base_of(shared.artifact)
    answer = shared.client.get(f"/v1/blobs/{digest}", range=asked)
    assert (answer.status, answer.body) == (200, content)


@pytest.mark.parametrize("behind", [0, 1, 10**17])
def test_a_range_behind_the_end_is_refused(shared: Served, behind: int) -> None:
    digest, content = base_of(shared.artifact)
    answer = shared.client.get(f"/v1/blobs/{digest}", range=f"bytes={len(content) + behind}-")
    assert answer.problem.reason is Reason.NO_SUCH_RANGE
    assert answer.status == 416
    assert f"{len(content)} bytes" in answer.problem.detail


@pytest.mark.parametrize("ranges", [2, 5, 99, 5_000])
def test_many_ranges_cost_no_more_than_the_file(shared: Served, ranges: int) -> None:
    digest, content = base_of(shared.artifact)
    asked = ",".join(f"{start}-{start}" for start in range(0, 2 * ranges, 2))
    answer = shared.client.get(f"/v1/blobs/{digest}", range=f"bytes={asked}")
    assert answer.body == content, "a server may ignore ranges"


@pytest.mark.parametrize(
    "digest",
    ["0" * 64, "../" + "0" * 61, "%2e%2e%2fstate.sqlite", "F" * 64, "0" * 63, "0" * 65, "..", "."],
)
def test_a_digest_that_nothing_has(shared: Served, digest: str) -> None:
    problem = shared.client.get(f"/v1/blobs/{digest}").problem
    assert problem.reason in {Reason.NO_SUCH_BLOB, Reason.BAD_MESSAGE, Reason.NO_SUCH_PATH}
    assert (problem.reason is Reason.NO_SUCH_BLOB) == (digest == "0" * 64)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/blobs/../../../../etc/passwd",
        "/v1/blobs/%2fetc%2fpasswd",
        "/v1/blobs//etc/passwd",
        "/v1/blobs/..%5c..%5cwindows",
        "/v1/blobs/" + "0" * 64 + "/../../status",
        "/v1/blobs/",
        "/v1/blobs",
        "/v1/../healthz",
    ],
)
def test_tricks_with_paths_lead_nowhere(shared: Served, path: str) -> None:
    answer = shared.client.get(path)
    assert answer.problem.reason in {Reason.NO_SUCH_PATH, Reason.BAD_MESSAGE}


def test_an_artifact_that_vanished_is_a_problem_of_storage(
    serve: Serve, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    digest = artifact.manifest.files["base.safetensors"].sha256
    monkeypatch.setitem(served.coordinator._files._files, digest, "gone.safetensors")
    problem = served.client.get(f"/v1/blobs/{digest}").problem
    assert problem.reason is Reason.STORAGE
    assert not problem.permanent
    assert str(artifact.folder) not in problem.detail


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted there")
@pytest.mark.parametrize(
    ("asked", "expected"), [({}, b"x" * 600_000), ({"range": "bytes=-3"}, b"xxx")]
)
def test_a_file_that_is_deleted_during_its_download_is_sent_whole(
    tmp_path: Path, asked: dict[str, str], expected: bytes
) -> None:
    """As the retention rule deletes heads: who began to download a version gets all of it."""
    path = tmp_path / "heads"
    path.write_bytes(b"x" * 600_000)
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("a download has no body")

    async def send(message: Message) -> None:
        path.unlink(missing_ok=True)
        sent.append(message)

    answer = download(path, "0" * 64, Headers(asked))
    path.unlink()
    asyncio.run(answer({"type": "http", "method": "GET", "headers": []}, receive, send))
    assert sent[0]["status"] == (206 if asked else 200)
    assert b"".join(message["body"] for message in sent[1:]) == expected
    assert [message["more_body"] for message in sent[1:]][-1] is False
    with pytest.raises(Refusal) as caught:  # and whoever comes later is told to ask again
        download(path, "0" * 64, Headers(asked))
    assert caught.value.reason is Reason.STORAGE


def test_a_file_that_is_not_sent_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "heads"
    path.write_bytes(b"x")
    with warnings.catch_warnings(action="error"), pytest.raises(Refusal):
        download(path, "0" * 64, Headers({"range": "bytes=9-"}))
