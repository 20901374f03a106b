"""Who is asking: for servers that only their own machine may use, and for those behind a proxy."""

from __future__ import annotations

import ipaddress
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ravan_edge.hosts import is_loopback
from ravan_edge.protocol import Reason, Refusal
from ravan_server.http.problems import problem_response

__all__ = ["BehindProxy", "LocalOnly"]

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?")


class LocalOnly:
    """Keeps web pages away from a server without login on a loopback address.

    A browser on the same machine can connect, and runs code of strangers. What it sends in a page's
    name carries an ``Origin``; a page that had its own name resolved to this machine (DNS rebinding)
    shows in ``Host``. Programs send no ``Origin``, and may leave ``Host`` out (HTTP/1.0).

    Args:
        app: What is protected.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        refusal = _foreign(Headers(scope=scope)) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await problem_response(refusal, close=True)(scope, receive, send)


class BehindProxy:
    """The address of a client is what the proxy says: the last entry of ``x-forwarded-for``.

    Earlier entries are what the client itself may have written.

    Args:
        app: What is told the address.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            lines = Headers(scope=scope).getlist("x-forwarded-for")
            last = lines[-1].rpartition(",")[2].strip() if lines else ""
            try:
                address = str(ipaddress.ip_address(last))
            except ValueError:
                pass  # none, or no address: the proxy's own
            else:
                scope["client"] = (address, 0)
        await self._app(scope, receive, send)


def _foreign(headers: Headers) -> Refusal | None:
    hosts = headers.getlist("host")
    for host in hosts:
        if not _is_local(host):
            return Refusal(
                Reason.WRONG_SITE,
                f"asked as {host[:80]!a}: this server is for its own machine, use 127.0.0.1",
            )
    own = {f"http://{host.lower()}" for host in hosts}
    for origin in headers.getlist("origin"):
        if origin.lower() not in own:
            return Refusal(
                Reason.WRONG_SITE, f"asked by a page of {origin[:80]!a}, which is another site"
            )
    return None


def _is_local(host: str) -> bool:
    found = _HOST.fullmatch(host)
    return found is not None and is_loopback(found[1].strip("[]").lower())
