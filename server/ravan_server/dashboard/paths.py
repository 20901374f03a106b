"""Serving the page. Its files hold no secret, so anybody may have them; what it shows, it asks for itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.params import Path as PathParameter

from ravan_edge.protocol import Reason, Refusal
from ravan_server.http.answers import unless_known

__all__ = ["add_dashboard"]

_PAGE = Path(__file__).parent / "page"
_INDEX = "index.html"
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
# Whatever a text of a device holds, nothing but these files is run, loaded or asked, and no other
# page can put this one into a frame.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "A file of the page."},
    304: {"description": "The client has it."},
}


def add_dashboard(app: FastAPI) -> None:
    """Add its paths to the application; its files are read once, now."""
    files = {path.name: path.read_bytes() for path in _PAGE.iterdir() if path.suffix in _TYPES}

    def answer(request: Request, name: str) -> Response:
        content = files.get(name)
        if content is None:
            raise Refusal(Reason.NO_SUCH_PATH, "the dashboard has no such file")
        response = unless_known(request, content, _TYPES[Path(name).suffix])
        response.headers.update(_HEADERS)
        return response

    @app.get("/", response_class=Response, responses=_FILE, tags=["dashboard"])
    async def dashboard(request: Request) -> Response:
        """The page on which operators watch the rounds."""
        return answer(request, _INDEX)

    @app.get("/dashboard/{file}", response_class=Response, responses=_FILE, tags=["dashboard"])
    async def dashboard_file(
        file: Annotated[str, PathParameter(pattern=r"^[a-z-]{1,32}\.[a-z]{2,4}$")], request: Request
    ) -> Response:
        """A file of the page."""
        return answer(request, file)
