"""The paths by which devices come in and operators keep the list of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from fastapi.params import Path as PathParameter

from ravan_edge.protocol import (
    DeviceInfo,
    Devices,
    Enrolled,
    Enrolment,
    Invitation,
    Invitations,
    InviteDevices,
    Reason,
    Refusal,
)
from ravan_server.access.access_log import AccessLog
from ravan_server.access.login import Login, address_of
from ravan_server.coordinator import Coordinator
from ravan_server.http.answers import json_response
from ravan_server.offers import check_protocol

__all__ = ["add_member_paths"]

EnrolledId = Annotated[str, PathParameter(pattern=r"^[0-9a-f]{32}$")]


def add_member_paths(
    app: FastAPI, served: Callable[[], Coordinator], login: Login | None, log: AccessLog
) -> None:
    """Add them to the application.

    Args:
        app: The application.
        served: What it talks to.
        login: What decides who may ask; None: there is no login, and nothing to enrol for.
        log: Told who did what.
    """

    @app.post("/v1/enrolment", response_model=Enrolled, tags=["devices"])
    async def enrolment(message: Enrolment, request: Request) -> Response:
        """Join with a token and a key of one's own, which signs this request and all later ones."""
        check_protocol(message.protocol)
        if login is None:
            raise Refusal(
                Reason.NO_SUCH_PATH, "this server has no login: devices take part without enrolling"
            )
        address = address_of(request.scope)
        login.check_failures(address)
        try:
            login.check_enrolment(
                request.headers,
                await request.body(),
                message,
                request.scope["path"],
                served().now(),
            )
            row = await asyncio.wrap_future(
                served().members.enrol(message.token, message.public_key)
            )
        except Refusal as refusal:
            if refusal.reason in {Reason.BAD_TOKEN, Reason.BAD_SIGNATURE}:
                login.failed(address, "an enrolment", refusal.reason)
            raise
        log.enrolled(address, row.device, row.invitation)
        return json_response(Enrolled(device=row.device, artifact=served().artifact.digest))

    @app.get("/v1/devices", response_model=Devices, tags=["devices"])
    def devices(after: Annotated[int, Query(ge=0, lt=1 << 53)] = 0) -> Response:
        """Enrolled devices, at most 1,000 behind the entry `after`."""
        return json_response(served().members.devices(after))

    @app.post("/v1/devices/{device}/revoke", response_model=DeviceInfo, tags=["devices"])
    def revoke(device: EnrolledId, request: Request) -> Response:
        """Shut a device out: it gets no tasks, and what it sent to the open attempt is not merged."""
        info = served().members.revoke(device)
        log.revoked(address_of(request.scope), device)
        return json_response(info)

    @app.get("/v1/invitations", response_model=Invitations, tags=["devices"])
    def invitations() -> Response:
        """The latest 1,000 invitations."""
        return json_response(served().members.invitations())

    @app.post("/v1/invitations", response_model=Invitation, tags=["devices"])
    def invite(message: InviteDevices, request: Request) -> Response:
        """Make a token with which devices can enrol."""
        made = served().members.invite(message)
        log.invited(address_of(request.scope), made.info.invitation, made.info.uses)
        return json_response(made)
