"""What one connection may cost, below the application: its head, its pace, its silence, its number.

uvicorn reads HTTP; this adds what it leaves open. A client that sends slowly, or does not read, or sends
what is no HTTP costs a socket for some seconds and nothing else. No timer is set for a request: each
connection says when it is to be looked at again, and :meth:`Connections.sweep` looks once a second.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ravan_edge.protocol import Reason, Refusal
from ravan_server.http.client_address import network_of
from ravan_server.http.problems import problem_response
from ravan_server.settings import DEFAULT_CONNECTIONS, ServerSettings

__all__ = ["ConnectionLimits", "Connections", "Handshake", "LimitedConnection"]

_BUSY_SECONDS = 10.0


@dataclass(frozen=True)
class ConnectionLimits:
    """What a connection may cost.

    Attributes:
        connections: Open at once, all together, handshakes of TLS among them.
        per_address: Open at once from one IPv4 address, or one IPv6 network of 64 bits; None: not counted,
            because all come from a proxy.
        head_bytes: Of a request's first line and headers.
        head_lines: Headers of a request.
        head_seconds: For a head, from its first byte on; for the first one from the connection's opening on.
        handshake_seconds: For TLS.
        body_seconds: Within so many seconds ...
        body_bytes: ... so many bytes of a body arrive, or its end.
        idle_seconds: Between two requests.
        unread_seconds: That a client does not take what was sent to it.
        sent_ahead: Requests that wait for the answer to an earlier one.
        sweep_seconds: How often all this is looked at: so much longer a time may last.
    """

    connections: int = DEFAULT_CONNECTIONS
    per_address: int | None = ServerSettings.connections_per_address
    head_bytes: int = 16 * 1024
    head_lines: int = 64
    head_seconds: float = 10.0
    handshake_seconds: float = 10.0
    body_seconds: float = 20.0
    body_bytes: int = 20_000
    idle_seconds: float = 5.0
    unread_seconds: float = 60.0
    sent_ahead: int = 16
    sweep_seconds: float = 1.0


@dataclass(frozen=True, eq=False)
class Handshake:
    """One of TLS that is going on."""

    address: str


class Connections:
    """All open connections of a server, and those to come: handshakes of TLS.

    Args:
        limits: What they may cost.

    Attributes:
        received_bytes: From all connections, also those that are gone.
        on_refusal: Told what never reaches the application.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.received_bytes = 0
        self.on_refusal: Callable[[Reason], None] = lambda _: None
        self._open: set[LimitedConnection] = set()
        self._handshakes: set[Handshake] = set()
        self._of_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open) + len(self._handshakes)

    def begin_handshake(self, address: str) -> Handshake | None:
        """Count a handshake in; None: it is one too many."""
        if self._full(address, more=1) is not None:
            return None
        handshake = Handshake(address)
        self._handshakes.add(handshake)
        self._of_address[address] += 1
        return handshake

    def end_handshake(self, handshake: Handshake) -> None:
        """It is over, or was already: what follows counts as a connection."""
        if handshake in self._handshakes:
            self._handshakes.remove(handshake)
            self._forget(handshake.address)

    def add(self, connection: LimitedConnection) -> str | None:
        """Count a connection in. Returns why it is one too many, or None."""
        self._open.add(connection)
        self._of_address[connection.address] += 1
        return self._full(connection.address)

    def remove(self, connection: LimitedConnection) -> None:
        """It is closed."""
        self._open.discard(connection)
        self._forget(connection.address)

    def _full(self, address: str, more: int = 0) -> str | None:
        if len(self) + more > self.limits.connections:
            return "too many connections"
        most = self.limits.per_address
        if most is not None and self._of_address[address] + more > most:
            return "too many connections from this address"
        return None

    def _forget(self, address: str) -> None:
        self._of_address[address] -= 1
        if not self._of_address[address]:
            del self._of_address[address]

    def sweep(self, now: float) -> None:
        """End those whose time is over.

        Args:
            now: Of the event loop's clock.
        """
        for connection in [each for each in self._open if each.look_at <= now]:
            connection.look(now)


class _Reading(Enum):
    """What a connection waits for."""

    HEAD = auto()
    BODY = auto()
    NOTHING = auto()  # a request is there; the next may come


class LimitedConnection(HttpToolsProtocol):
    """uvicorn's connection, with limits; made by a server for each client.

    Args:
        connections: Those of the server.
        config: uvicorn's.
        server_state: uvicorn's.
        handshake: Of TLS, that was counted until now; None: there is none.

    Attributes:
        address: Who has its share of connections.
        look_at: When its time is over, unless something happens.
    """

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        handshake: Handshake | None = None,
    ) -> None:
        super().__init__(config, server_state, {})
        self._connections = connections
        self._handshake = handshake
        self._limits = connections.limits
        self.address = ""
        self.look_at = math.inf
        self._reading = _Reading.HEAD
        self._messages = 0  # that began
        self._head_bytes = 0
        self._unfinished_bytes = 0
        self._body_left = 0
        self._body_bytes = 0
        self._unread_since: float | None = None
        self._refusal: Refusal | None = None

    # asyncio calls these

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it, and refuse it where there are too many."""
        super().connection_made(transport)
        self.address = network_of(self.client[0] if self.client else "")
        self.look_at = self.loop.time() + self._limits.head_seconds
        if self._handshake is not None:
            self._connections.end_handshake(self._handshake)
        full = self._connections.add(self)
        if full is not None:
            self._refuse(Refusal(Reason.BUSY, full, retry_after_seconds=_BUSY_SECONDS))

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._connections.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, in pieces so small that no head can hide in one."""
        self._connections.received_bytes += len(data)
        rest = memoryview(data)
        while rest and not self.transport.is_closing():
            end = max(self._limits.head_bytes, self._body_left)
            self._read(rest[:end])
            rest = rest[end:]

    def pause_writing(self) -> None:
        """The client reads slower than it is written to."""
        super().pause_writing()
        self._unread_since = self.loop.time()
        self.look_at = min(self.look_at, self._unread_since + self._limits.unread_seconds)

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        self._unread_since = None

    # the parser calls these

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._messages += 1
        self._head_bytes = 0
        self._body_left = 0
        if self._reading is not _Reading.HEAD:  # the time of the first one runs already
            self._reading = _Reading.HEAD
            self.look_at = self.loop.time() + self._limits.head_seconds
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the path."""
        self._add_to_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._add_to_head(len(name) + len(value) + len(": \r\n"))
        if len(self.headers) >= self._limits.head_lines:
            raise self._stop(self._too_large(f"more than {self._limits.head_lines} headers"))
        if name.lower() == b"content-length":
            self._body_left = int(value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """All of a head."""
        if any(name == b"transfer-encoding" for name, _ in self.headers):
            # Its framing and its trailers would need limits of their own.
            detail = "a body in chunks: send it with a content-length"
            raise self._stop(Refusal(Reason.LENGTH_REQUIRED, detail))
        if len(self.pipeline) >= self._limits.sent_ahead:
            detail = f"more than {self._limits.sent_ahead} requests ahead of their answers"
            raise self._stop(Refusal(Reason.BUSY, detail))
        super().on_headers_complete()
        self._reading = _Reading.BODY
        self._body_bytes = 0
        self.look_at = self.loop.time() + self._limits.body_seconds

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._body_left -= len(body)
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of a request."""
        self._reading = _Reading.NOTHING
        self._wait_for_next()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """All of an answer is written, though not sent."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self.look_at = self.loop.time() + self._limits.unread_seconds
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._reading is _Reading.NOTHING:
            self._wait_for_next()

    # the sweep calls this

    def look(self, now: float) -> None:
        """The time is over that was given: end the connection, or give it more."""
        limits = self._limits
        unread = self._unread_since
        if self.transport.is_closing() or (
            unread is not None and now >= unread + limits.unread_seconds
        ):
            self.transport.abort()  # what it was sent lies here, and it does not take it
        elif self._reading is _Reading.BODY:
            # While reading is paused the server is the slow one.
            if self._body_bytes < limits.body_bytes and not self.flow.read_paused:
                self._refuse(
                    Refusal(
                        Reason.TOO_SLOW,
                        f"{self._body_bytes} bytes of the body in {limits.body_seconds:g} seconds, "
                        f"expected at least {limits.body_bytes}: send it again",
                    )
                )
            self._body_bytes = 0
            self.look_at = now + limits.body_seconds
        elif self._is_answering:
            self.look_at = now + limits.head_seconds
        elif self._reading is _Reading.HEAD and self._messages:
            detail = f"no whole head in {limits.head_seconds:g} seconds: send it again"
            self._refuse(Refusal(Reason.TOO_SLOW, detail))
        else:
            self._close(now)

    @property
    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # the latest; None before the first
        return bool(self.pipeline) or (cycle is not None and not cycle.response_complete)

    def _wait_for_next(self) -> None:
        limits = self._limits
        seconds = limits.head_seconds if self._is_answering else limits.idle_seconds
        self.look_at = self.loop.time() + seconds

    def _read(self, data: memoryview) -> None:
        began = self._messages
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # it is answered as any other request: nothing is spoken here but HTTP/1.1
        except httptools.HttpParserError as error:
            refusal = self._refusal or Refusal(Reason.BAD_REQUEST, f"no HTTP/1.1: {error}")
            self._refuse(refusal)
            return
        if self._reading is not _Reading.HEAD or self._messages > began:
            self._unfinished_bytes = 0
            return
        # The parser keeps an unfinished header to itself: here are its bytes, but for the first piece.
        self._unfinished_bytes += len(data)
        if self._unfinished_bytes > self._limits.head_bytes:
            self._refuse(self._too_large(f"over {self._limits.head_bytes} bytes"))

    def _add_to_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > self._limits.head_bytes:
            raise self._stop(self._too_large(f"over {self._limits.head_bytes} bytes"))

    def _too_large(self, found: str) -> Refusal:
        return Refusal(Reason.HEAD_TOO_LARGE, f"the head of the request: {found}")

    def _stop(self, refusal: Refusal) -> Refusal:
        """Keep why: the parser ends at an exception, but passes on one of its own."""
        self._refusal = refusal
        return refusal

    def _refuse(self, refusal: Refusal) -> None:
        """End the connection, with a problem where HTTP still allows one."""
        self._connections.on_refusal(refusal.reason)
        cycle: RequestResponseCycle | None = self.cycle
        waiting = self._reading is _Reading.BODY and not self.pipeline  # its request is the last
        if cycle is None or cycle.response_complete or (waiting and not cycle.response_started):
            self.transport.write(_as_http(refusal))
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # whoever still answers it is told that the client has gone
            cycle.message_event.set()
        self._close(self.loop.time())

    def _close(self, now: float) -> None:
        self.transport.close()
        self.look_at = now + self._limits.unread_seconds


def _as_http(refusal: Refusal) -> bytes:
    """As the application would answer, for what never reaches it."""
    answer = problem_response(refusal, close=True)
    lines = [f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}".encode()]
    lines += [name + b": " + value for name, value in answer.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(answer.body)])
