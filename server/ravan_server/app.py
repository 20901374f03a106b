"""The network side: paths of docs/protocol.md, each a few lines around the coordinator."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.params import Path as PathParameter
from fastapi.telemetry import TelemetryConfig

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
)
from ravan_server.access.access_log import AccessLog
from ravan_server.access.login import (
    SECURITY_SCHEMES,
    Access,
    Login,
    Role,
    address_of,
    device_of,
    role_of,
    signed_sha256,
)
from ravan_server.access.member_paths import add_member_paths
from ravan_server.coordinator import Coordinator
from ravan_server.dashboard import add_dashboard
from ravan_server.health_paths import add_health_paths
from ravan_server.history_paths import add_history_paths
from ravan_server.http.answers import json_response
from ravan_server.http.downloads import download
from ravan_server.http.limits import SmallBodies
from ravan_server.http.meters import Counted
from ravan_server.http.origin import BehindProxy, LocalOnly
from ravan_server.http.problems import PROBLEM_TYPE, add_error_handlers
from ravan_server.http.short_way import short_way
from ravan_server.operations import repeated
from ravan_server.uploads import Checks, MemoryBudget, UploadReceiver, receive

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
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

Digest = Annotated[str, PathParameter(pattern=r"^[0-9a-f]{64}$")]
TaskId = Annotated[str, PathParameter(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Served = Callable[[], Coordinator]


def create_app(
    coordinator: Coordinator | None,
    uploads_bytes: int = 256_000_000,
    *,
    login: Login | None = None,
    local_only: bool = False,
    behind_proxy: bool = False,
) -> FastAPI:
    """The application.

    Args:
        coordinator: What it talks to; None: only to describe it (OpenAPI).
        uploads_bytes: Memory for unfinished uploads, all together; enough for one, at least.
        login: Decides who may ask for what; None: whoever can connect may ask for everything.
        local_only: Whether only programs of this machine may use it, and no web page.
        behind_proxy: Whether a proxy says who the clients are.
    """
    app = _Aggregator(
        title="Ravan Edge aggregator",
        version=str(PROTOCOL_VERSION),
        description="How devices get tasks and send updates: docs/protocol.md.",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_TELEMETRY,
        responses={"default": {"model": Problem, "description": "Refused."}},
        generate_unique_id_function=lambda route: route.name,
    )
    add_error_handlers(app)
    # Each stands before those that were added earlier: who may not ask is sent away first.
    app.add_middleware(SmallBodies, most_bytes=_MOST_MESSAGE_BYTES, exempt_suffix="/update")
    if login is not None and coordinator is not None:
        app.add_middleware(Access, login=login, clock=coordinator.now)
    if behind_proxy:
        app.add_middleware(BehindProxy)
    if local_only:
        app.add_middleware(LocalOnly)
    if coordinator is not None:
        app.add_middleware(Counted, meters=coordinator.meters)

    def served() -> Coordinator:
        if coordinator is None:
            raise RuntimeError("this application only describes itself")
        return coordinator

    if coordinator is not None:  # with less, no upload would ever come through
        uploads_bytes = max(uploads_bytes, coordinator.reader.largest_bytes)
    budget = MemoryBudget(uploads_bytes)
    if coordinator is not None:
        coordinator.meters.watch_gauge(
            "ravan_upload_memory_bytes", "Unfinished uploads.", lambda: uploads_bytes - budget.free
        )
    _add_tasks(app, served, budget, Checks())
    log = AccessLog()
    _add_reading(app, served, log)
    add_member_paths(app, served, login, log)
    add_health_paths(app, served)
    add_history_paths(app, served)
    add_dashboard(app)
    return app


class _Aggregator(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The description of all paths; refusals are not plain JSON, which FastAPI cannot be told."""
        document = super().openapi()
        document["components"]["securitySchemes"] = SECURITY_SCHEMES
        for path, operations in document["paths"].items():
            role = role_of(path)
            for operation in operations.values():
                # The empty one: a server to which only its own machine can connect asks nobody.
                operation["security"] = [] if role is Role.ANYBODY else [{role.value: []}, {}]
                content = operation["responses"]["default"]["content"]
                if "application/json" in content:
                    content[PROBLEM_TYPE] = content.pop("application/json")
        return document


def _add_tasks(app: FastAPI, served: Served, budget: MemoryBudget, checks: Checks) -> None:
    async def check_in(message: CheckIn, request: Request) -> Response:
        """Offer work: the answer is a task, or when to come back."""
        coordinator, device = served(), device_of(request)
        if device is not None and message.device != device:
            raise Refusal(
                Reason.BAD_MESSAGE,
                f"the message is of device {message.device}, its signature of device {device}",
            )
        found = coordinator.check_in(message)
        if isinstance(found, ComeBack):
            return json_response(found)
        return json_response(coordinator.answer(await asyncio.wrap_future(found), message.device))

    app.router.add_api_route(
        "/v1/check-in",
        check_in,
        methods=["POST"],
        response_model=CheckInAnswer,
        tags=["tasks"],
        route_class_override=short_way(CheckIn, check_in),
    )

    @app.put(
        "/v1/tasks/{task}/update",
        response_model=Receipt,
        tags=["tasks"],
        openapi_extra={
            "requestBody": {
                "required": True,
                "description": "One update file: docs/artifact.md, section 8.",
                "content": _BYTES,
            }
        },
    )
    async def upload(task: TaskId, request: Request) -> Response:
        """Send the update of a task. Sending the same again is harmless."""
        length = _announced(request)
        coordinator = served()
        row = coordinator.task(task, device_of(request))
        receiver = UploadReceiver(
            coordinator.reader,
            task,
            row.version,
            coordinator.codec_of(row),
            length,
            budget,
            signed_sha256(request),
        )
        try:
            update = await receive(receiver, request.stream(), checks)
            receipt = repeated(row, update.sha256)
            if receipt is None:
                receipt = await asyncio.wrap_future(coordinator.accept(task, update))
            coordinator.meters.upload(receipt.status, receipt.bytes)
        finally:
            receiver.close()
        return json_response(receipt)

    @app.post("/v1/tasks/{task}/failure", status_code=HTTPStatus.NO_CONTENT, tags=["tasks"])
    async def failure(task: TaskId, message: DeviceFailure, request: Request) -> None:
        """Give a task back."""
        await asyncio.wrap_future(served().give_back(task, message, device_of(request)))


def _add_reading(app: FastAPI, served: Served, log: AccessLog) -> None:
    @app.get(
        "/v1/blobs/{digest}",
        response_class=Response,
        tags=["blobs"],
        responses={
            HTTPStatus.OK: {"description": "All of it.", "content": _BYTES},
            HTTPStatus.PARTIAL_CONTENT: {"description": "One range of it.", "content": _BYTES},
            HTTPStatus.NOT_MODIFIED: {"description": "The client has it."},
        },
    )
    async def blob(digest: Digest, request: Request) -> Response:
        """Content by its sha256: manifest, files of the artifact, heads. Ranges are served."""
        path = served().blob_at_hand(digest)
        if path is None:
            path = await run_in_threadpool(served().blob, digest)
        return download(path, digest, request.headers)

    @app.post("/v1/versions/{version}/rollback", response_model=VersionInfo, tags=["versions"])
    def rollback(
        version: Annotated[int, PathParameter(ge=0, lt=1 << 53)], request: Request
    ) -> Response:
        """Make an older version's heads the latest again, as a new version."""
        made = served().go_back(version)
        log.rolled_back(address_of(request.scope), made.version, version)
        return json_response(made)

    @app.get("/v1/status", response_model=ServerStatus, tags=["status"])
    async def status() -> Response:
        """Where the rounds stand."""
        return json_response(served().status())


def _announced(request: Request) -> int:
    """The length that an upload announces.

    Raises:
        Refusal: None, or the body is compressed.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise Refusal(Reason.ENCODED, f"content-encoding {encoding[:40]!r}: send the file as it is")
    text = request.headers.get("content-length", "")
    if not _DECIMAL.fullmatch(text):
        raise Refusal(Reason.LENGTH_REQUIRED, "an upload has a content-length")
    return int(text)
