"""The connection to a server, against answers that servers, proxies and networks can give."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from ravan_edge.device import ServerConnection, refusals_as_errors
from ravan_edge.errors import ServerRefusedError, StorageError, UsageError
from ravan_edge.protocol import (
    CheckIn,
    ComeBack,
    DeviceFailure,
    FailureReason,
    Reason,
    Refusal,
    TaskOffer,
    VersionInfo,
    Versions,
)
from ravan_edge.training import LocalSettings
from tests.device.fake_server import CONTENT, DIGEST, URL, Pieces, always, connection, response

CHECK_IN = CheckIn(protocol=1, device="device-000", plans=("whole",))
COME_BACK: dict[str, Any] = {
    "answer": "come_back",
    "reason": "merging",
    "earliest_seconds": 2.0,
    "latest_seconds": 4.0,
}
TASK: dict[str, Any] = {
    "answer": "task",
    "task": "T1",
    "device": 0,
    "round": 1,
    "attempt": 1,
    "version": 0,
    "artifact": "a" * 64,
    "heads": "b" * 64,
    "heads_bytes": 748,
    "plan": "whole",
    "settings": LocalSettings().as_dict(),
    "heads_to_train": None,
    "seed": (1 << 64) - 1,
    "deadline_seconds": 600,
    "upload": {"encoding": "plain", "codec": "fp32", "most_bytes": 1004},
}
STATUS: dict[str, Any] = {
    "protocol": 1,
    "artifact": "a" * 64,
    "heads": "b" * 64,
    "version": 0,
    "round": 1,
    "rounds": 30,
    "attempt": 1,
    "state": "waiting",
    "devices": 0,
    "goal": 3,
    "training": 0,
    "accepted": 0,
    "mode": "sync",
    "failed_attempts": 0,
    "deadline_seconds": None,
}


def problem(status: int, reason: str, permanent: bool, **more: Any) -> dict[str, Any]:
    return {
        "type": f"urn:ravan:problem:{reason}",
        "title": "so it is",
        "status": status,
        "detail": "it is so",
        "reason": reason,
        "permanent": permanent,
        "retry_after_seconds": None,
        **more,
    }


# Requests and answers


def test_a_check_in_is_one_message_and_its_answer_is_typed() -> None:
    seen: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return response(200, document=TASK if len(seen) == 1 else COME_BACK)

    with connection(handler) as server:
        offer, wait = server.check_in(CHECK_IN), server.check_in(CHECK_IN)
    assert isinstance(offer, TaskOffer)
    assert (offer.task, offer.seed, offer.local) == ("T1", (1 << 64) - 1, LocalSettings())
    assert isinstance(wait, ComeBack)
    request = seen[0]
    assert (request.method, str(request.url)) == ("POST", f"{URL}/v1/check-in")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert json.loads(request.content) == CHECK_IN.model_dump(mode="json")


def test_an_upload_is_the_file_and_nothing_else() -> None:
    seen: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        receipt = {"task": "T1", "status": "accepted", "sha256": DIGEST, "bytes": len(CONTENT)}
        return response(200, document=receipt)

    with connection(handler) as server:
        receipt = server.upload("T1", CONTENT)
    assert receipt.sha256 == DIGEST
    assert (seen[0].method, seen[0].url.path) == ("PUT", "/v1/tasks/T1/update")
    assert seen[0].headers["content-length"] == str(len(CONTENT))
    assert seen[0].content == CONTENT


def test_a_task_is_given_back_without_an_answer() -> None:
    seen: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return response(204)

    with connection(handler) as server:
        server.give_back("T1", DeviceFailure(reason=FailureReason.DATA, detail="no rows"))
    assert seen[0].url.path == "/v1/tasks/T1/failure"
    assert json.loads(seen[0].content) == {"reason": "data", "detail": "no rows"}


def test_many_versions_are_more_than_a_message() -> None:
    row = VersionInfo(
        version=0,
        heads=DIGEST,
        bytes=748,
        updates=3,
        made_at="2026-01-01T00:00:00+00:00",
        available=True,
        scores={"accuracy": 0.5, "loss": 1.0, "count": 1000},
    )
    many = Versions(versions=(row,) * 10_000).model_dump_json().encode()
    assert len(many) > 1 << 20
    with connection(always(200, content=many)) as server:
        assert len(server.versions()) == 10_000


def test_an_address_may_have_a_path() -> None:
    paths = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        paths.append(request.url.path)
        return response(200, document=STATUS)

    for url in (URL, f"{URL}/", f"{URL}/ravan", f"{URL}/ravan/"):
        with ServerConnection(url, transport=httpx2.MockTransport(handler)) as server:
            server.status()
    assert paths == ["/v1/status", "/v1/status", "/ravan/v1/status", "/ravan/v1/status"]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "server",
        "localhost:8750",
        "ftp://server.test",
        "http://",
        "http://:8750",
        "http://server.test:99999",
        "http://server.test:port",
        "http://a b",
        "http://a%00b",
        "http://ser\nver",
        "http://" + "x" * 5000,
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"no address of a server.*http://HOST:PORT") as caught:
        ServerConnection(url)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "url", ["http://[::1]:8750", "http://127.0.0.2", "http://LocalHost:1", "https://a-b.test:443"]
)
def test_what_is_one_is_taken(url: str) -> None:
    with ServerConnection(url) as server:
        assert server.url == url.removesuffix(":443").lower()


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1",
        "http://server.test:8750",
        "http://localhost.test",
        "http://[2001:db8::1]",
    ],
)
def test_nothing_is_sent_where_others_can_read_it(url: str) -> None:
    with pytest.raises(UsageError, match=r"for all to read.*https://"):
        ServerConnection(url)


def test_no_environment_sends_requests_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("ALL_PROXY", "http://proxy.test:3128")
    with ServerConnection("http://127.0.0.1:1") as server, pytest.raises(StorageError) as caught:
        server.status()
    assert "127.0.0.1:1" in str(caught.value)
    assert "refused" in str(caught.value)


# Refusals


def test_a_refusal_has_its_reason() -> None:
    document = problem(503, "busy", permanent=False, retry_after_seconds=2.0)
    with connection(always(503, document=document)) as server, pytest.raises(Refusal) as caught:
        server.upload("T1", CONTENT)
    assert (caught.value.reason, caught.value.retry_after_seconds) == (Reason.BUSY, 2.0)
    assert str(caught.value) == "it is so"


def test_commands_end_with_6_or_9() -> None:
    refused = problem(410, "round_over", permanent=True)
    busy = problem(503, "storage", permanent=False)
    with (
        pytest.raises(ServerRefusedError, match="it is so"),
        refusals_as_errors(),
        connection(always(410, document=refused)) as server,
    ):
        server.status()
    with (
        pytest.raises(StorageError, match=r"it is so.*try again"),
        refusals_as_errors(),
        connection(always(503, document=busy)) as server,
    ):
        server.status()


HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


def test_the_page_of_a_proxy_is_a_server_that_cannot_now() -> None:
    slowly = Pieces(*(bytes([byte]) for byte in HTML))
    with connection(always(502, stream=slowly)) as server, pytest.raises(Refusal) as caught:
        server.status()
    assert caught.value.reason is Reason.BUSY
    assert "502" in str(caught.value)


def test_a_page_that_never_comes_to_its_end_is_given_up() -> None:
    silent = Pieces(HTML[:10], httpx2.ReadTimeout("timed out"))
    with (
        connection(always(502, stream=silent)) as server,
        pytest.raises(StorageError, match="cannot be reached: timed out"),
    ):
        server.status()


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404])
def test_a_page_of_something_else_is_no_answer(status: int) -> None:
    headers = {"location": "http://elsewhere.test"}

    def handler(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, stream=Pieces(HTML), headers=headers)

    with (
        connection(handler) as server,
        pytest.raises(StorageError, match=f"status {status} without a reason"),
    ):
        server.status()


def test_a_reason_of_a_later_server_is_no_crash() -> None:
    document = problem(409, "of_tomorrow", permanent=True)
    with connection(always(409, document=document)) as server, pytest.raises(StorageError):
        server.status()


# Nonsense


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        HTML,
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps({**STATUS, "version": -1}).encode(),
        json.dumps({**STATUS, "version": "0"}).encode(),
        json.dumps({**STATUS, "state": "asleep"}).encode(),
        json.dumps({**STATUS, "more": 1}).encode(),
        json.dumps({key: STATUS[key] for key in STATUS if key != "goal"}).encode(),
        json.dumps({**STATUS, "deadline_seconds": float("nan")}).encode(),
        b'{"protocol": ' + b"9" * 10_000 + b"}",
    ],
)
def test_an_answer_that_is_none_says_where_it_came_from(content: bytes) -> None:
    with (
        connection(always(200, content=content)) as server,
        pytest.raises(StorageError, match="not as the protocol says") as caught,
    ):
        server.status()
    assert URL in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"lr": "fast"}},
        {"settings": {"unknown": 1}},
        {"settings": {"lr": -1.0}},
        {"heads": "../../etc/passwd"},
        {"task": "../x"},
        {"plan": "a/b"},
        {"heads_bytes": 1 << 60},
        {"seed": 1 << 64},
        {"answer": "both"},
        {"upload": {"encoding": "masked", "codec": "fp32", "most_bytes": 1}},
    ],
)
def test_a_task_that_breaks_the_protocol_is_not_taken(change: dict[str, Any]) -> None:
    with (
        connection(always(200, document={**TASK, **change})) as server,
        pytest.raises(StorageError, match="not as the protocol says"),
    ):
        server.check_in(CHECK_IN)


@pytest.mark.parametrize("status", [200, 422, 502])
def test_an_answer_without_end_is_left(status: int) -> None:
    endless = Pieces(*([b" " * 65_536] * 1000))
    with (
        connection(always(status, stream=endless)) as server,
        pytest.raises(StorageError, match="an answer without end"),
    ):
        server.status()
    assert endless.asked == 17, "a megabyte, and not one piece more"


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ConnectError("refused"),
        httpx2.ConnectTimeout("timed out"),
        httpx2.ReadTimeout("timed out"),
        httpx2.WriteError("broken pipe"),
        httpx2.RemoteProtocolError("no HTTP"),
        httpx2.ReadError(""),
    ],
)
def test_a_network_that_fails_is_a_failure_of_storage(error: Exception) -> None:
    def handler(_: httpx2.Request) -> httpx2.Response:
        raise error

    with connection(handler) as server, pytest.raises(StorageError) as caught:
        server.status()
    assert str(error) or type(error).__name__ in str(caught.value)
    assert caught.value.exit_code == 9
