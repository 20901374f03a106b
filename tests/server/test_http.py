"""What the network side says to requests that are not quite right; over ASGI, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ravan_edge.artifact import Artifact
from ravan_edge.errors import StorageError
from ravan_edge.protocol import Problem, Reason
from ravan_server.app import create_app
from ravan_server.coordinator import Coordinator
from tests.server.server_kit import Clock, ask, device_update, opened_server
from tests.tiny_artifact import make_tiny_artifact

CHECK_IN = {"protocol": 1, "device": "device-000", "plans": ["whole"]}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("http") / "artifact")


@pytest.fixture
def server(artifact: Artifact, tmp_path: Path) -> Iterator[Coordinator]:
    with opened_server(artifact, tmp_path / "state", Clock()) as coordinator:
        yield coordinator


def request(server: Coordinator, method: str, path: str, **more: Any) -> httpx2.Response:
    async def one() -> httpx2.Response:
        transport = httpx2.ASGITransport(create_app(server), raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://server.test") as client:
            return await client.request(method, path, **more)

    return asyncio.run(one())


def reason_of(answer: httpx2.Response) -> Reason:
    """Every refusal is a problem, and says in its head what it says in its body."""
    assert answer.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(answer.content)
    assert problem.status == answer.status_code
    return problem.reason


def task(server: Coordinator) -> str:
    offer = ask(server, "device-000")
    assert offer.answer == "task"
    return offer.task


@pytest.mark.parametrize(
    ("value", "status", "part"),
    [
        ("bytes=0-", 206, slice(0, None)),
        ("bytes=10-19", 206, slice(10, 20)),
        ("bytes=740-9999", 206, slice(740, None)),
        ("bytes=-8", 206, slice(-8, None)),
        ("bytes=748-", 416, slice(0, 0)),
        ("bytes=999999-", 416, slice(0, 0)),
        # What is no single range is answered with the whole.
        ("bytes=5-1", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
        ("bytes=0-9,20-29", 200, slice(None)),
        ("bytes=abc", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
        ("bytes=" + "9" * 5000 + "-", 200, slice(None)),
    ],
)
def test_one_range_of_a_blob_is_served(
    server: Coordinator, value: str, status: int, part: slice
) -> None:
    digest = server.status().heads
    content = server.blob(digest).read_bytes()
    assert len(content) == 748
    answer = request(server, "GET", f"/v1/blobs/{digest}", headers={"range": value})
    assert answer.status_code == status
    if status == 416:
        assert answer.json()["reason"] == "no_such_range"
        assert "748 bytes" in answer.json()["detail"]
    else:
        assert answer.content == content[part]
        assert answer.headers["etag"] == f'"{digest}"'


def test_a_blob_is_the_same_for_ever(server: Coordinator) -> None:
    digest = server.status().heads
    path, tag = f"/v1/blobs/{digest}", f'"{digest}"'
    assert "immutable" in request(server, "GET", path).headers["cache-control"]
    again = request(server, "GET", path, headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    part = {"range": "bytes=700-"}
    answer = request(server, "GET", path, headers={**part, "if-range": tag})
    assert (answer.status_code, len(answer.content)) == (206, 48)
    other = request(server, "GET", path, headers={**part, "if-range": '"another"'})
    assert (other.status_code, len(other.content)) == (200, 748)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/"),
        ("GET", "/v1"),
        ("GET", "/v1/status/"),
        ("HEAD", "/v1/status"),
        ("DELETE", "/v1/status"),
    ],
)
def test_what_is_no_path_is_a_problem_and_no_redirection(
    server: Coordinator, method: str, path: str
) -> None:
    answer = request(server, method, path)
    assert answer.status_code == 404
    assert method == "HEAD" or reason_of(answer) is Reason.NO_SUCH_PATH


@pytest.mark.parametrize("content", [b"", b"1", b"1234567"])
def test_an_upload_shorter_than_any_file_is_refused_for_good(
    server: Coordinator, content: bytes
) -> None:
    answer = request(server, "PUT", f"/v1/tasks/{task(server)}/update", content=content)
    assert reason_of(answer) is Reason.BAD_UPDATE


def test_an_upload_says_how_long_it_is_and_comes_as_it_is(
    server: Coordinator, artifact: Artifact
) -> None:
    offer = ask(server, "device-000")
    assert offer.answer == "task"
    content = device_update(artifact, offer)
    path = f"/v1/tasks/{offer.task}/update"

    async def pieces() -> Any:
        yield content

    assert reason_of(request(server, "PUT", path, content=pieces())) is Reason.LENGTH_REQUIRED
    packed = request(server, "PUT", path, content=content, headers={"content-encoding": "gzip"})
    assert reason_of(packed) is Reason.ENCODED
    long = request(server, "PUT", path, content=content + b"\0" * 1000)
    assert reason_of(long) is Reason.TOO_LARGE
    assert request(server, "PUT", path, content=content).json()["status"] == "accepted"
    assert request(server, "PUT", path, content=content).json()["status"] == "already_have_it"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.BAD_MESSAGE),
        (b"null", Reason.BAD_MESSAGE),
        (b"[" * 60_000, Reason.BAD_MESSAGE),
        (b'{"\\ud800": 1}', Reason.BAD_MESSAGE),
        (b'{"protocol": 1.0}', Reason.BAD_MESSAGE),
        (b'{"protocol": true}', Reason.BAD_MESSAGE),
        (b'{"protocol": 1, "device": "x", "plans": ["whole"]}', Reason.BAD_MESSAGE),
        (b'{"protocol": 1, "device": "device-0", "plans": []}', Reason.BAD_MESSAGE),
        (b'{"protocol": 1, "device": "device-0", "plans": ["whole"], "x": 1}', Reason.BAD_MESSAGE),
        (b'{"protocol": 0}', Reason.PROTOCOL),
        (b'{"protocol": 2, "what": "a later version says"}', Reason.PROTOCOL),
        (b'{"protocol": ' + b"9" * 4000 + b"}", Reason.PROTOCOL),
        (b'{"protocol": 1, "device": "device-0", "plans": ["none"]}', Reason.NO_COMMON_PLAN),
        (b" " * 65_537, Reason.TOO_LARGE),
    ],
)
def test_a_check_in_that_is_none_is_a_problem(
    server: Coordinator, content: bytes, reason: Reason
) -> None:
    headers = {"content-type": "application/json"}
    answer = request(server, "POST", "/v1/check-in", content=content, headers=headers)
    assert reason_of(answer) is reason


def test_a_message_names_its_type(server: Coordinator) -> None:
    content = b'{"protocol": 1, "device": "device-000", "plans": ["whole"]}'
    for headers in ({}, {"content-type": "text/plain"}):
        answer = request(server, "POST", "/v1/check-in", content=content, headers=headers)
        assert reason_of(answer) is Reason.BAD_MESSAGE
    assert request(server, "POST", "/v1/check-in", json=CHECK_IN).json()["answer"] == "task"


@pytest.mark.parametrize(
    ("method", "path", "reason"),
    [
        ("GET", "/v1/blobs/abc", Reason.BAD_MESSAGE),
        ("GET", f"/v1/blobs/{'0' * 64}", Reason.NO_SUCH_BLOB),
        ("PUT", "/v1/tasks/abc/update", Reason.NO_SUCH_TASK),
        ("PUT", "/v1/tasks/a.b/update", Reason.BAD_MESSAGE),
        ("POST", "/v1/versions/7/rollback", Reason.NO_SUCH_VERSION),
        ("POST", "/v1/versions/x/rollback", Reason.BAD_MESSAGE),
    ],
)
def test_what_is_not_there_has_its_reason(
    server: Coordinator, method: str, path: str, reason: Reason
) -> None:
    answer = request(server, method, path, content=b"1" if method == "PUT" else None)
    assert reason_of(answer) is reason


def test_a_disk_that_fails_is_no_bug(server: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise StorageError("cannot write the file: No space left on device", where="blobs")

    monkeypatch.setattr(server._merger, "copy", fails)
    answer = request(server, "POST", "/v1/versions/0/rollback")
    assert reason_of(answer) is Reason.STORAGE
    assert answer.headers["retry-after"] == "10"
    assert "No space left" in answer.json()["detail"]
