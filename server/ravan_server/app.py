"""The network side: paths of docs/protocol.md, each a few lines around the coordinator."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.params import Path as PathParameter
from fastapi.responses import FileResponse
from fastapi.telemetry import TelemetryConfig
from pydantic import BaseModel, TypeAdapter

from ravan_edge.protocol import (
    PROTOCOL_VERSION,
    CheckIn,
    CheckInAnswer,
    ComeBack,
    DeviceFailure,
    Problem,
    Reason,
    Receipt,
    Refusal,
    ServerStatus,
    VersionInfo,
    Versions,
)
from ravan_server.coordinator import Coordinator
from ravan_server.http_limits import SmallBodies
from ravan_server.operations import repeated
from ravan_server.problems import add_error_handlers
from ravan_server.uploads import MemoryBudget, UploadReceiver

__all__ = ["create_app"]

_MOST_MESSAGE_BYTES = 64 * 1024
_DECIMAL = re.compile(r"[0-9]{1,18}")
# Nothing about devices leaves the server, whatever the environment asks FastAPI to send.
_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_FOREVER = "public, max-age=31536000, immutable"

Digest = Annotated[str, PathParameter(pattern=r"^[0-9a-f]{64}$")]
TaskId = Annotated[str, PathParameter(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
_ANSWER: TypeAdapter[Any] = TypeAdapter(CheckInAnswer)


def create_app(coordinator: Coordinator | None, uploads_bytes: int = 256_000_000) -> FastAPI:
    """The application.

    Args:
        coordinator: What it talks to; None: only to describe it (OpenAPI).
        uploads_bytes: Memory for unfinished uploads, all together.
    """
    app = FastAPI(
        title="Ravan Edge aggregator",
        version=str(PROTOCOL_VERSION),
        description="How devices get tasks and send updates: docs/protocol.md.",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_TELEMETRY,
        responses={"default": {"model": Problem, "description": "Refused."}},
    )
    add_error_handlers(app)
    app.add_middleware(SmallBodies, most_bytes=_MOST_MESSAGE_BYTES, exempt_suffix="/update")
    if coordinator is None:
        coordinator = _Nobody()
    _add_tasks(app, coordinator, MemoryBudget(uploads_bytes))
    _add_reading(app, coordinator)
    return app


class _Nobody(Coordinator):
    """Stands where a coordinator is needed and nobody calls it."""

    def __init__(self) -> None:
        pass


def _add_tasks(app: FastAPI, coordinator: Coordinator, budget: MemoryBudget) -> None:
    @app.post("/v1/check-in", response_model=CheckInAnswer, tags=["tasks"])
    async def check_in(message: CheckIn) -> Response:
        """Offer work: the answer is a task, or when to come back."""
        found = coordinator.check_in(message)
        if isinstance(found, ComeBack):
            return _json(found)
        return _json(coordinator.answer(await asyncio.wrap_future(found)))

    @app.put(
        "/v1/tasks/{task}/update",
        response_model=Receipt,
        tags=["tasks"],
        openapi_extra={
            "requestBody": {
                "required": True,
                "description": "One update file: docs/artifact.md, section 8.",
                "content": {
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
                },
            }
        },
    )
    async def upload(task: TaskId, request: Request) -> Response:
        """Send the update of a task. Sending the same again is harmless."""
        length = _announced(request)
        row = coordinator.task(task)
        receiver = UploadReceiver(
            coordinator.artifact,
            coordinator.method,
            task,
            coordinator.version_of(row),
            length,
            budget,
        )
        try:
            async for chunk in request.stream():
                if chunk:
                    receiver.feed(chunk)
            update = receiver.finish()
            receipt = repeated(row, update.sha256)
            if receipt is None:
                receipt = await asyncio.wrap_future(coordinator.accept(task, update))
        finally:
            receiver.close()
        return _json(receipt)

    @app.post("/v1/tasks/{task}/failure", status_code=HTTPStatus.NO_CONTENT, tags=["tasks"])
    async def failure(task: TaskId, message: DeviceFailure) -> None:
        """Give a task back."""
        coordinator.task(task)
        await asyncio.wrap_future(coordinator.give_back(task, message))


def _add_reading(app: FastAPI, coordinator: Coordinator) -> None:
    @app.get("/v1/blobs/{digest}", response_class=FileResponse, tags=["blobs"])
    async def blob(digest: Digest, request: Request) -> Response:
        """Content by its sha256: manifest, files of the artifact, heads. Ranges are served."""
        path = coordinator.blob(digest)
        headers = {"etag": f'"{digest}"', "cache-control": _FOREVER}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        _ignore_odd_ranges(request)
        return FileResponse(path, headers=headers, media_type="application/octet-stream")

    @app.get("/v1/versions", response_model=Versions, tags=["versions"])
    def versions() -> Response:
        """All versions of the heads."""
        return _json(Versions(versions=tuple(coordinator.versions())))

    @app.post("/v1/versions/{version}/rollback", response_model=VersionInfo, tags=["versions"])
    def rollback(version: Annotated[int, PathParameter(ge=0, lt=1 << 53)]) -> Response:
        """Make an older version's heads the latest again, as a new version."""
        return _json(coordinator.go_back(version))

    @app.get("/v1/status", response_model=ServerStatus, tags=["status"])
    async def status() -> Response:
        """Where the rounds stand."""
        return _json(coordinator.status())

    @app.get("/healthz", tags=["status"])
    async def healthz() -> dict[str, str]:
        """The process runs."""
        return {"status": "ok"}


def _announced(request: Request) -> int:
    """The length that an upload announces.

    Raises:
        Refusal: None, or the body is compressed.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Refusal(Reason.ENCODED, f"content-encoding {encoding[:40]!r}: send the file as it is")
    text = request.headers.get("content-length", "")
    if not _DECIMAL.fullmatch(text):
        raise Refusal(Reason.LENGTH_REQUIRED, "an upload has a content-length")
    return int(text)


def _ignore_odd_ranges(request: Request) -> None:
    """Leave only a range that is one: others are answered with the whole, as RFC 9110 has it."""
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    first, last = found.groups() if found else ("", "")
    if not (first or last) or (first and last and int(last) < int(first)):
        headers = request.scope["headers"]
        request.scope["headers"] = [each for each in headers if each[0] != b"range"]


def _json(message: BaseModel) -> Response:
    return Response(message.model_dump_json(), media_type="application/json")
