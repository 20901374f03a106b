"""Every error as the answer that docs/protocol.md promises."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ravan_edge.errors import StorageError
from ravan_edge.protocol import Reason, Refusal
from ravan_server.events import Event, log_event
from ravan_server.group_commit import as_refusal
from ravan_server.offers import check_protocol

__all__ = ["PROBLEM_TYPE", "add_error_handlers", "problem_response", "refused_with"]

PROBLEM_TYPE = "application/problem+json"

_log = logging.getLogger(__name__)

_REASON = "ravan.reason"


class _ProblemResponse(Response):
    """A refusal that leaves its reason in the scope, for whoever counts them."""

    media_type = PROBLEM_TYPE
    reason: Reason

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        scope[_REASON] = self.reason
        await super().__call__(scope, receive, send)


def refused_with(scope: Scope) -> Reason | None:
    """Why a request was refused; None: it was not."""
    reason: Reason | None = scope.get(_REASON)
    return reason


def problem_response(refusal: Refusal, *, close: bool = False) -> Response:
    """A refusal as HTTP.

    Args:
        refusal: Why.
        close: Whether the connection ends with it, because what is still coming is not read.
    """
    problem = refusal.problem
    headers = {"connection": "close"} if close else {}
    if problem.retry_after_seconds is not None:
        headers["retry-after"] = str(max(1, round(problem.retry_after_seconds)))
    content = problem.model_dump_json()
    response = _ProblemResponse(content, problem.status, headers=headers)
    response.reason = refusal.reason
    return response


def add_error_handlers(app: FastAPI) -> None:
    """Turn every error of a handler into a problem."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        return _respond(request, refusal)

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> Response:
        # The scope's path, not that of `request.url`, which cannot be made from every query.
        if request.scope["path"] == "/v1/check-in" and isinstance(error.body, dict):
            try:
                check_protocol(error.body.get("protocol"))
            except Refusal as refusal:
                return _respond(request, refusal)
        return _respond(request, Refusal(Reason.BAD_MESSAGE, _first_error(error)))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if error.status_code in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
            where = _printable(f"{request.method} {request.scope['path'][:200]}")
            detail = f"{where}: docs/protocol.md lists the paths"
            return _respond(request, Refusal(Reason.NO_SUCH_PATH, detail))
        return _respond(request, Refusal(Reason.BAD_MESSAGE, str(error.detail)))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, _: ClientDisconnect) -> Response:
        return _respond(request, Refusal(Reason.CUT_OFF, "the connection ended"))

    @app.exception_handler(StorageError)
    async def storage(request: Request, error: StorageError) -> Response:
        log_event(_log, logging.ERROR, Event.STORAGE_FAILED, "%(error)s", error=str(error))
        return _respond(request, as_refusal(error))

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        detail = f"{type(error).__name__}: the server's log has more"
        return _respond(request, Refusal(Reason.BUG, detail))


def _respond(request: Request, refusal: Refusal) -> Response:
    return problem_response(refusal, close=request.method == "PUT")


def _first_error(error: RequestValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])[:200]
    return _printable(f"{place}: {first['msg']}"[:1000])


def _printable(text: str) -> str:
    """What a client wrote, so that no terminal obeys it."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )
