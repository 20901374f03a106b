"""What a message may be, and the memory that it may cost, however it arrives."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest
from starlette.types import Message, Receive, Scope, Send

from ravan_edge.protocol import Reason, Refusal
from ravan_server.http.limits import SmallBodies, check_message
from tests.server.conftest import Served

_BYTES = 64 * 1024


def test_a_message_of_single_bytes_costs_no_more_than_another() -> None:
    seen = bytearray()

    async def application(_: Scope, receive: Receive, __: Send) -> None:
        more = True
        while more:
            message = await receive()
            seen.extend(message["body"])
            more = message["more_body"]

    expected = b'"' + bytes(32 + number % 2 for number in range(_BYTES - 2)) + b'"'
    sent = iter(range(_BYTES))

    async def receive() -> Message:
        number = next(sent)
        body = expected[number : number + 1]
        return {"type": "http.request", "body": body, "more_body": number + 1 < _BYTES}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/check-in", "headers": []}
    tracemalloc.start()
    try:
        asyncio.run(SmallBodies(application, _BYTES, "/update")(scope, receive, send))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen == expected
    assert peak < 20 * _BYTES


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"reason": "data", "reason": "other"}', "'reason' is there twice"),
        (b'{"a": {"b": 1, "\\u0062": 2}}', "'b' is there twice"),
        (b'{"a": NaN}', "NaN"),
        (b"-Infinity", "Infinity"),
        (b"[" * 9 + b"]" * 9, "nested deeper than 8"),
        (b'{"a":' * 9 + b"1" + b"}" * 9, "nested deeper than 8"),
        (b"[" * 60_000, "nested deeper than 8"),
        (b"[" * 30_000 + b"]" * 30_000, "nested deeper than 8"),
        (b'{"a": 1', "delimiter"),
        (b"\xff", "utf-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        ("{}".encode("utf-16"), "utf-8"),
        (b"1" * 5000, "digits"),
    ],
)
def test_what_two_readers_could_understand_in_two_ways(body: bytes, found: str) -> None:
    with pytest.raises(Refusal, match=found) as caught:
        check_message(body)
    assert caught.value.reason is Reason.BAD_MESSAGE
    assert len(caught.value.detail) < 400


@pytest.mark.parametrize("body", [b"[" * 8 + b"]" * 8, b"{}", b" [1, 2.5, null] ", b'"["'])
def test_other_json_is_let_through(body: bytes) -> None:
    check_message(body)


def test_a_member_that_is_there_twice_reaches_nobody(served: Served) -> None:
    text = b'{"protocol": 1, "device": "device-0", "device": "device-1", "plans": ["whole"]}'
    assert served.client.post("/v1/check-in", text).problem.reason is Reason.BAD_MESSAGE
    assert served.status.devices == 0
