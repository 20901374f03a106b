"""Counts requests and answers; what stands outside of everything else sees them all."""

from __future__ import annotations

import time
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ravan_server.http.problems import refused_with
from ravan_server.meters import UNROUTED, Meters

__all__ = ["Counted"]


class Counted:
    """Counts every request by its route and how it ended.

    Args:
        app: What answers.
        meters: What counts.
    """

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self._app = app
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, sent_bytes = time.perf_counter(), 0, 0

        # No coroutine of its own: it hands on that of the next one.
        def counted_send(message: Message) -> Awaitable[None]:
            nonlocal status, sent_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent_bytes += len(message.get("body", b""))
            return send(message)

        try:
            await self._app(scope, receive, counted_send)
        finally:
            # The template, which the router left here: what a client typed would be a label without end.
            route = getattr(scope.get("route"), "path", UNROUTED)
            if status:  # else nobody was there any more
                self._meters.requests.add(route, status, time.perf_counter() - began, sent_bytes)
            reason = refused_with(scope)
            if reason is not None:
                self._meters.refusal(reason, route)
