"""Memory that a message may cost, however it arrives."""

from __future__ import annotations

import asyncio
import tracemalloc

from starlette.types import Message, Receive, Scope, Send

from ravan_server.http_limits import SmallBodies

_BYTES = 64 * 1024


def test_a_message_of_single_bytes_costs_no_more_than_another() -> None:
    seen = bytearray()

    async def application(_: Scope, receive: Receive, __: Send) -> None:
        more = True
        while more:
            message = await receive()
            seen.extend(message["body"])
            more = message["more_body"]

    sent = iter(range(_BYTES))

    async def receive() -> Message:
        number = next(sent)
        body = bytes([number % 251])
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
    assert seen == bytes(number % 251 for number in range(_BYTES))
    assert peak < 20 * _BYTES
