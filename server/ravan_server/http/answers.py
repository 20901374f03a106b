"""Messages as HTTP."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel
from starlette.responses import Response

__all__ = ["json_response", "moment"]


def json_response(message: BaseModel) -> Response:
    """A message of the protocol as the answer to a request."""
    return Response(message.model_dump_json(), media_type="application/json")


def moment(seconds: float) -> str:
    """Seconds since 1970 as messages say them: UTC, ISO 8601.

    >>> moment(1_800_000_000.5)
    '2027-01-15T08:00:00+00:00'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
