"""Answers with the content of a blob: all of it, a part of it, or that the client has it already."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from http import HTTPStatus
from io import FileIO
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ravan_edge.protocol import Reason, Refusal

__all__ = ["download"]

_FOREVER = "public, max-age=31536000, immutable"
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)
_RETRY_SECONDS = 10.0
_PIECE_BYTES = 256 * 1024


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
        file = path.open("rb", buffering=0)
    except OSError:  # also where the retention rule was quicker: whoever asks again is told so
        detail = f"the server cannot read its file of blob {digest}"
        raise Refusal(Reason.STORAGE, detail, retry_after_seconds=_RETRY_SECONDS) from None
    try:
        size = os.fstat(file.fileno()).st_size
        part = None
        if asked.get("if-range", tag) == tag:
            part = _part(asked.get("range", ""), size)
    except BaseException:
        file.close()
        raise
    return _File(file, size, part, headers)


class _File(Response):
    """An open file, or a part of it: whoever deletes it meanwhile takes nothing away from the answer.

    Args:
        file: Closed when it is sent.
        size: All of it.
        part: First byte and the one behind the last; None: all of it.
        headers: Besides those that say how long it is.
    """

    def __init__(
        self, file: FileIO, size: int, part: tuple[int, int] | None, headers: Mapping[str, str]
    ) -> None:
        first, end = part or (0, size)
        more = {"accept-ranges": "bytes", "content-length": str(end - first)}
        if part is not None:
            more["content-range"] = f"bytes {first}-{end - 1}/{size}"
        status = HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT
        super().__init__(None, status, {**headers, **more}, "application/octet-stream")
        self._file, self._first, self._end = file, first, end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self._file as file:
            file.seek(self._first)
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            left = self._end - self._first
            while left:
                # By another thread: the disk may be slow.
                piece = await run_in_threadpool(file.read, min(left, _PIECE_BYTES))
                if not piece:
                    raise OSError(
                        f"the file of a blob is shorter than it was: {left} bytes missing"
                    )
                left -= len(piece)
                message = {"type": "http.response.body", "body": piece, "more_body": left > 0}
                await send(message)
            if self._first == self._end:
                await send({"type": "http.response.body", "body": b""})


def _part(text: str, size: int) -> tuple[int, int] | None:
    """One range of a file: its first byte, and the one behind its last.

    Anything that is no single range is None, all of the file, as RFC 9110 allows.

    Raises:
        Refusal: Nothing of the file is in it.
    """
    found = _RANGE.fullmatch(text)
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if first and last and int(last) < int(first):
        return None
    if (first and int(first) >= size) or (not first and not int(last)):
        raise Refusal(Reason.NO_SUCH_RANGE, f"{text[:50]} of a blob of {size} bytes")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(int(last) + 1 if last else size, size)
