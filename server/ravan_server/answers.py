"""Messages as HTTP."""

from __future__ import annotations

from pydantic import BaseModel
from starlette.responses import Response

__all__ = ["json_response"]


def json_response(message: BaseModel) -> Response:
    """A message of the protocol as the answer to a request."""
    return Response(message.model_dump_json(), media_type="application/json")
