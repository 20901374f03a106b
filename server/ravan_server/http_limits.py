"""What every request must keep to before a handler sees it."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ravan_edge.protocol import Reason, Refusal
from ravan_server.problems import problem_response

__all__ = ["SmallBodies"]


class SmallBodies:
    """Refuses bodies larger than a message can be; uploads have a limit of their own.

    Args:
        app: What is protected.
        most_bytes: Of a body.
        exempt_suffix: Paths of PUT requests with this ending are not looked at.
    """

    def __init__(self, app: ASGIApp, most_bytes: int, exempt_suffix: str) -> None:
        self._app = app
        self._most_bytes = most_bytes
        self._exempt_suffix = exempt_suffix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if (
            scope["type"] != "http"
            or scope["method"] in {"GET", "HEAD"}
            or (scope["method"] == "PUT" and scope["path"].endswith(self._exempt_suffix))
        ):
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if not announced.isdecimal() or int(announced[:20]) > self._most_bytes:
            await self._too_large()(scope, receive, send)
            return
        # A message is small: it is taken whole before anything looks at it.
        # Its pieces become one: a message of single bytes would cost 200 times its size.
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                gone = Refusal(Reason.CUT_OFF, "the connection ended within the message")
                await problem_response(gone, close=True)(scope, receive, send)
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._most_bytes:
                await self._too_large()(scope, receive, send)
                return
        messages: list[Message] = [
            {"type": "http.request", "body": bytes(body), "more_body": False}
        ]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, replay, send)

    def _too_large(self) -> Response:
        detail = f"a message has at most {self._most_bytes} bytes"
        return problem_response(Refusal(Reason.TOO_LARGE, detail), close=True)
