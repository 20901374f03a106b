"""The paths by which operators see what happened; each answers 304 to who has the answer already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.params import Path as PathParameter
from pydantic import BaseModel

from ravan_edge.protocol import Attempts, Tasks, Versions
from ravan_server.coordinator import Coordinator
from ravan_server.http.answers import unless_known

__all__ = ["KNOWN", "add_history_paths"]

KNOWN: dict[int | str, dict[str, Any]] = {304: {"description": "The client has it."}}
"""The answer to ``if-none-match``, for OpenAPI."""


def add_history_paths(app: FastAPI, served: Callable[[], Coordinator]) -> None:
    """Add them to the application.

    Args:
        app: The application.
        served: What it talks to.
    """

    @app.get("/v1/versions", response_model=Versions, responses=KNOWN, tags=["versions"])
    def versions(request: Request) -> Response:
        """All versions of the heads."""
        return _answer(request, Versions(versions=tuple(served().versions())))

    @app.get("/v1/attempts", response_model=Attempts, responses=KNOWN, tags=["history"])
    def attempts(
        request: Request, after: Annotated[int | None, Query(ge=0, lt=1 << 53)] = None
    ) -> Response:
        """At most 200 attempts behind the entry `after`; without it the latest."""
        return _answer(request, served().history.attempts(after))

    @app.get("/v1/attempts/{entry}/tasks", response_model=Tasks, responses=KNOWN, tags=["history"])
    def tasks(
        entry: Annotated[int, PathParameter(ge=1, lt=1 << 53)],
        request: Request,
        after: Annotated[int, Query(ge=0, lt=1 << 53)] = 0,
    ) -> Response:
        """At most 500 tasks of an attempt, without the first `after`."""
        return _answer(request, served().history.tasks(entry, after))


def _answer(request: Request, message: BaseModel) -> Response:
    return unless_known(request, message.model_dump_json(), "application/json")
