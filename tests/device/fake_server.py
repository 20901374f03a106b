"""Servers that are not there: what they answer is said by a test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator

import httpx2

from ravan_edge.device import ServerConnection

__all__ = ["CONTENT", "DIGEST", "URL", "BlobServer", "Pieces", "always", "connection", "response"]

URL = "https://server.test:8750"
CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()

Handler = Callable[[httpx2.Request], httpx2.Response]


def connection(handler: Handler) -> ServerConnection:
    """Through which requests reach a handler instead of a network."""
    return ServerConnection(URL, httpx2.MockTransport(handler))


class Pieces(httpx2.SyncByteStream):
    """A body that comes in pieces, and may end before its end.

    Args:
        pieces: Bytes, or an error of the network.
    """

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = pieces
        self.asked = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.asked += 1
            if isinstance(piece, Exception):
                raise piece
            yield piece


def response(status: int, content: bytes = b"", document: object = None) -> httpx2.Response:
    """An answer as it comes from a network: its body is not there yet."""
    body = content if document is None else json.dumps(document).encode()
    return httpx2.Response(status, stream=Pieces(body))


def always(
    status: int, content: bytes = b"", document: object = None, stream: Pieces | None = None
) -> Handler:
    """The same answer to every request."""
    if stream is not None:
        return lambda _: httpx2.Response(status, stream=stream)
    return lambda _: response(status, content, document)


class BlobServer:
    """Serves CONTENT under every digest, as a server of ours does.

    Args:
        cut: After so many bytes of a body the network fails; None: never.
        ranges: Whether it can serve a part.
        content: Something else than CONTENT.
    """

    def __init__(
        self, cut: int | None = None, *, ranges: bool = True, content: bytes = CONTENT
    ) -> None:
        self.cut, self.ranges, self.content = cut, ranges, content
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        first, status = 0, 200
        if self.ranges and "range" in request.headers:
            first = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
            status = 206
            if first >= len(self.content):
                return response(416)
        body = self.content[first:]
        if self.cut is None:
            return httpx2.Response(status, stream=Pieces(body[:1000], body[1000:]))
        broken = httpx2.ReadError("connection reset")
        return httpx2.Response(status, stream=Pieces(body[: self.cut], broken))
