"""Answers with the content of a blob: all of it, a part of it, or that the client has it already."""

from __future__ import annotations

import re
from http import HTTPStatus
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from ravan_edge.protocol import Reason, Refusal

__all__ = ["download"]

_FOREVER = "public, max-age=31536000, immutable"
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)
_RETRY_SECONDS = 10.0


def download(path: Path, digest: str, asked: Headers) -> Response:
    """The answer to a request for a blob.

    Args:
        path: The file with its content.
        digest: Its sha256, which is also its entity tag.
        asked: The headers of the request.

    Raises:
        Refusal: The file is gone, or shorter than where the range begins.
    """
    tag = f'"{digest}"'
    headers = {"etag": tag, "cache-control": _FOREVER}
    known = {one.strip().removeprefix("W/") for one in asked.get("if-none-match", "").split(",")}
    if known & {tag, "*"}:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    try:
        size = path.stat().st_size
    except OSError:
        detail = f"the server cannot read its file of blob {digest}"
        raise Refusal(Reason.STORAGE, detail, retry_after_seconds=_RETRY_SECONDS) from None
    whole = asked.get("if-range", tag) != tag or not _is_part(asked.get("range", ""), size)
    return _File(path, whole, headers)


class _File(FileResponse):
    """A file whose `range` is looked at only if it is known to be one.

    To others FileResponse gives answers that the protocol has not.
    """

    def __init__(self, path: Path, whole: bool, headers: dict[str, str]) -> None:
        super().__init__(path, headers=headers, media_type="application/octet-stream")
        self._whole = whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        if self._whole:
            headers = MutableHeaders(raw=list(scope["headers"]))
            del headers["range"]
            scope = {**scope, "headers": headers.raw}
        await super().__call__(scope, receive, send)


def _is_part(text: str, size: int) -> bool:
    """Whether this is one range of a file; anything else is ignored, as RFC 9110 allows.

    Raises:
        Refusal: Nothing of the file is in it.
    """
    found = _RANGE.fullmatch(text)
    if found is None or not any(found.groups()):
        return False
    first, last = found.groups()
    if first and last and int(last) < int(first):
        return False
    if (first and int(first) >= size) or (not first and not int(last)):
        raise Refusal(Reason.NO_SUCH_RANGE, f"{text[:50]} of a blob of {size} bytes")
    return True
