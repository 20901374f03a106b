"""The paths by which other programs watch the server: is it there, can it work, what does it count."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Response

from ravan_server.coordinator import Coordinator
from ravan_server.meters import METRICS_TYPE

__all__ = ["add_health_paths"]

_TEXT = {"text/plain": {"schema": {"type": "string"}}}


def add_health_paths(app: FastAPI, served: Callable[[], Coordinator]) -> None:
    """Add them to the application.

    Args:
        app: The application.
        served: What it talks to.
    """

    @app.get("/healthz", tags=["status"])
    async def healthz() -> dict[str, str]:
        """The process runs."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["status"])
    async def readyz() -> dict[str, str]:
        """It can do its work: its threads run, its store can be written, and it is not about to end."""
        await served().readiness.check()
        return {"status": "ready"}

    @app.get(
        "/metrics",
        response_class=Response,
        tags=["status"],
        responses={200: {"description": "The text format of Prometheus.", "content": _TEXT}},
    )
    def metrics() -> Response:
        """What the server counts."""
        return Response(served().meters.text(), headers={"content-type": METRICS_TYPE})
