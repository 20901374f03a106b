"""Messages as HTTP."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from http import HTTPStatus

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["json_response", "moment", "unless_known"]


def json_response(message: BaseModel) -> Response:
    """A message of the protocol as the answer to a request."""
    return Response(message.model_dump_json(), media_type="application/json")


def unless_known(request: Request, content: bytes | str, media_type: str) -> Response:
    """An answer that is asked for again and again: 304 to a client that has it already."""
    body = content.encode() if isinstance(content, str) else content
    tag = f'"{hashlib.sha256(body).hexdigest()}"'
    headers = {"etag": tag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(body, media_type=media_type, headers=headers)


def moment(seconds: float) -> str:
    """Seconds since 1970 as messages say them: UTC, ISO 8601.

    >>> moment(1_800_000_000.5)
    '2027-01-15T08:00:00+00:00'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
