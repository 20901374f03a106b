"""Requests to an application without a network, and to a real server byte by byte.

In process nothing stands between a test and the application: chunks arrive as the test cuts them,
headers say what the test wants them to say, and a connection ends where it should.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

from starlette.types import ASGIApp, Message

from ravan_edge.protocol import KINDS, Problem

__all__ = ["Answer", "Client"]

Result = TypeVar("Result")
Body = bytes | Iterable[bytes] | AsyncIterable[bytes]


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: HTTP's.
        headers: Names in lower case.
        body: All of it.
        raised: What the application raised after it had answered, for a server's log.
        chunks_read: How many pieces of the request's body it asked for.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    raised: Exception | None = None
    chunks_read: int = 0

    def json(self) -> Any:
        """The body as JSON."""
        assert self.headers["content-type"] == "application/json", self.body
        return json.loads(self.body)

    @property
    def problem(self) -> Problem:
        """The body as a refusal that agrees with the table of reasons."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        problem = Problem.model_validate_json(self.body)
        kind = KINDS[problem.reason]
        assert self.status == problem.status == kind.status
        assert (problem.title, problem.permanent) == (kind.title, kind.permanent)
        assert problem.type == f"urn:ravan:problem:{problem.reason}"
        assert ("retry-after" in self.headers) == (problem.retry_after_seconds is not None)
        return problem


@dataclass
class _Exchange:
    """One request on its way."""

    chunks: AsyncIterator[bytes]
    cut: bool
    read: int = 0
    ended: bool = False
    sent: list[Message] = field(default_factory=list)

    async def receive(self) -> Message:
        if self.ended:
            return {"type": "http.disconnect"}
        try:
            chunk = await anext(self.chunks)
        except StopAsyncIteration:
            self.ended = True
            if self.cut:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": b"", "more_body": False}
        self.read += 1
        return {"type": "http.request", "body": chunk, "more_body": True}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


class Client:
    """Talks to an application in its own event loop.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._runner.close()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Several requests at once, as a coroutine that awaits :meth:`send`."""
        return self._runner.run(work)

    def get(self, path: str, **headers: str) -> Answer:
        """GET; ``if_none_match="..."`` is the header ``if-none-match``."""
        return self.run(self.send("GET", path, headers=_named(headers)))

    def post(self, path: str, message: object) -> Answer:
        """POST a message as JSON, or bytes as they are."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return self.run(self.send("POST", path, body, headers={"content-type": "application/json"}))

    def put(self, path: str, body: Body, length: int | None = None, **headers: str) -> Answer:
        """PUT; a length that is not given is the body's, which is then bytes."""
        return self.run(self.send_put(path, body, length, **headers))

    async def send_put(
        self, path: str, body: Body, length: int | None = None, **headers: str
    ) -> Answer:
        """:meth:`put` as a coroutine."""
        if length is None:
            assert isinstance(body, bytes | bytearray)
            length = len(body)
        given = {"content-length": str(length), **_named(headers)}
        return await self.send("PUT", path, body, headers=given)

    async def send(
        self,
        method: str,
        path: str,
        body: Body = b"",
        headers: Mapping[str, str] | None = None,
        *,
        cut: bool = False,
    ) -> Answer:
        """One request.

        Args:
            method: In capitals.
            path: As on the wire, with its query.
            body: At once, or in the pieces in which it is to arrive.
            headers: As they are.
            cut: The connection ends behind the last piece, before the application knows that it
                is the last.
        """
        parts = urlsplit(path)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(parts.path),
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode("latin-1"),
            "root_path": "",
            "headers": [
                (name.encode(), value.encode("latin-1"))
                for name, value in {"host": "server", **(headers or {})}.items()
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        exchange = _Exchange(_pieces(body), cut)
        raised: Exception | None = None
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:
            if not exchange.sent:
                raise
            raised = error
        start, *rest = exchange.sent
        return Answer(
            start["status"],
            {name.decode(): value.decode("latin-1") for name, value in start["headers"]},
            b"".join(message.get("body", b"") for message in rest),
            raised,
            exchange.read,
        )


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


async def _pieces(body: Body) -> AsyncIterator[bytes]:
    if isinstance(body, bytes | bytearray):
        if body:
            yield bytes(body)
    elif isinstance(body, AsyncIterable):
        async for piece in body:
            yield piece
    else:
        for piece in body:
            yield piece
