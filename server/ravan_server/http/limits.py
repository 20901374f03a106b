"""What every request must keep to before a handler sees it."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ravan_edge.protocol import Reason, Refusal
from ravan_edge.strict_json import parse_json
from ravan_server.http.problems import problem_response

__all__ = ["SmallBodies", "check_message"]

_MOST_NESTING = 8  # the deepest message has 2


class SmallBodies:
    """Refuses bodies that no message can be: too large, or no strict JSON. Uploads are not looked at.

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
        if body:
            try:
                check_message(bytes(body))
            except Refusal as refusal:
                await problem_response(refusal)(scope, receive, send)
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


def check_message(body: bytes) -> None:
    """Refuse what two readers could understand in two ways (RFC 8259, sections 4 and 8.1).

    Raises:
        Refusal: It is not JSON in UTF-8, an object has a member twice, a number is NaN or infinite, or
            it is nested deeper than any message.
    """
    try:
        document = parse_json(body)
    except RecursionError:
        raise _bad(f"nested deeper than {_MOST_NESTING}") from None
    except ValueError as error:  # also UnicodeDecodeError
        raise _bad(str(error)[:200]) from None
    _check_nesting(document)


def _check_nesting(document: object) -> None:
    """Level by level, so that no stack is needed."""
    level = [document]
    for _ in range(_MOST_NESTING):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise _bad(f"nested deeper than {_MOST_NESTING}")


def _bad(found: str) -> Refusal:
    return Refusal(Reason.BAD_MESSAGE, f"the message is not the JSON it should be: {found}")
