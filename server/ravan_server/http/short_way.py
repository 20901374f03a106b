"""The short way of a message that is right; of all others FastAPI says what is wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["short_way"]

Kind = TypeVar("Kind", bound=BaseModel)


def short_way(
    kind: type[Kind], answer: Callable[[Kind, Request], Awaitable[Response]]
) -> type[APIRoute]:
    """A kind of route that reads the bodies of requests in one step, where they are such messages.

    FastAPI parses a body, looks for what an endpoint depends on, and checks the body as a part of that, a
    fifth of what a check-in costs. An endpoint that takes a message and the request needs none of it.
    Whatever is not right goes FastAPI's way from the beginning, and is refused there.

    Args:
        kind: Of the message.
        answer: The endpoint.
    """

    class ShortWay(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            long_way = super().get_route_handler()

            async def handle(request: Request) -> Response:
                if request.headers.get("content-type") != "application/json":
                    return await long_way(request)
                try:
                    message = kind.model_validate_json(await request.body())
                except ValidationError:
                    return await long_way(request)  # the request keeps a body that was read
                return await answer(message, request)

            return handle

    return ShortWay
