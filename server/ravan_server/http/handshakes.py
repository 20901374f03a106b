"""Taking connections that begin with TLS: a handshake counts as a connection from its first moment on.

asyncio tells nobody of a connection before its handshake is over, so those that never end would be bounded by
their time alone, and many at once could take all files that the process may have open.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable

from ravan_server.events import Event, log_event
from ravan_server.http.client_address import network_of
from ravan_server.http.connection import Connections, Handshake, LimitedConnection

__all__ = ["TlsListener"]

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0


class TlsListener:
    """Takes connections from a socket; one too many is closed before a byte is read.

    Args:
        listening: The socket.
        tls: With a certificate.
        connections: Counts them.
        make: Makes what speaks HTTP once the handshake is over.
    """

    def __init__(
        self,
        listening: socket.socket,
        tls: ssl.SSLContext,
        connections: Connections,
        make: Callable[[Handshake], LimitedConnection],
    ) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._tls = tls
        self._connections = connections
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._running: set[asyncio.Task[None]] = set()
        self._accepting = self._loop.create_task(self._accept())

    def close(self) -> None:
        """Take no more, and end those that are not through; connections stay."""
        self._accepting.cancel()
        for each in self._running:
            each.cancel()

    async def wait_closed(self) -> None:
        """Until nothing of it runs any more."""
        await asyncio.gather(self._accepting, *self._running, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            try:
                accepted, address = await self._loop.sock_accept(self._listening)
            except OSError as error:  # of the whole system, or the client has gone already
                log_event(
                    _log,
                    logging.WARNING,
                    Event.CONNECTION_LOST,
                    "a connection could not be taken: %(error)s",
                    error=error.strerror or str(error),
                )
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            handshake = self._connections.begin_handshake(network_of(str(address[0])))
            if handshake is None:
                accepted.close()
                continue
            task = self._loop.create_task(self._shake_hands(accepted, handshake))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _shake_hands(self, accepted: socket.socket, handshake: Handshake) -> None:
        try:
            # A handshake that fails, or does not end in time, closes its connection.
            with contextlib.suppress(OSError):
                await self._loop.connect_accepted_socket(
                    lambda: self._make(handshake),
                    accepted,
                    ssl=self._tls,
                    ssl_handshake_timeout=self._connections.limits.handshake_seconds,
                )
        finally:
            self._connections.end_handshake(handshake)
