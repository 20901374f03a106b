"""HTTP around the application: uvicorn, with connections that are limited."""

from __future__ import annotations

import asyncio
import socket
import ssl
from functools import partial

import uvicorn
from fastapi import FastAPI

from ravan_server.http.connection import ConnectionLimits, Connections, LimitedConnection
from ravan_server.http.handshakes import TlsListener
from ravan_server.meters import Meters

__all__ = ["BACKLOG", "http_server"]

BACKLOG = 65_535  # the system takes what it allows (Linux: net.core.somaxconn)
_GRACE_SECONDS = 10


def http_server(
    app: FastAPI,
    limits: ConnectionLimits,
    tls: ssl.SSLContext | None = None,
    meters: Meters | None = None,
) -> uvicorn.Server:
    """A server on sockets that its ``run`` is given.

    Args:
        app: What answers.
        limits: What a connection may cost.
        tls: With a certificate; None: plain HTTP.
        meters: What counts connections; None: nobody asks.
    """
    config = uvicorn.Config(
        app,
        loop="uvloop",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    connections = Connections(limits)
    if meters is not None:
        connections.on_refusal = meters.refusal
        meters.watch_gauge("ravan_open_connections", "Connections.", lambda: len(connections))
        meters.watch_counter(
            "ravan_received_bytes",
            "Of requests, heads included.",
            lambda: connections.received_bytes,
        )
    return _Server(config, connections, tls)


class _Server(uvicorn.Server):
    """uvicorn's, but for what makes its connections and looks after them."""

    def __init__(
        self, config: uvicorn.Config, connections: Connections, tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(config)
        self._connections = connections
        self._tls = tls
        self._sweep_at = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take connections."""
        loop = asyncio.get_running_loop()
        make = partial(LimitedConnection, self._connections, self.config, self.server_state)
        if self._tls is None:
            self.servers = [
                await loop.create_server(make, sock=each, backlog=BACKLOG) for each in sockets or []
            ]
        else:
            self.servers = [
                TlsListener(each, self._tls, self._connections, make)  # type: ignore[misc]
                for each in sockets or []
            ]
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        now = asyncio.get_running_loop().time()
        if now >= self._sweep_at:
            self._connections.sweep(now)
            self._sweep_at = now + self._connections.limits.sweep_seconds
        return await super().on_tick(counter)
