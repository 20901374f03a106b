"""Who may ask a server with a login for what."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack

import pytest
from fastapi.routing import APIRoute
from starlette.types import Message

from ravan_edge.protocol import Reason
from ravan_server.access.login import Role, address_of, role_of
from ravan_server.access.replay import REQUEST_SECONDS
from ravan_server.app import create_app
from tests.server.asgi import Client
from tests.server.devices import path_of, update_of
from tests.server.login_kit import (
    OPERATOR,
    Guard,
    Guarded,
    guard,
    guarded,
    guarded_app,
    offer_of,
    status_of,
)

__all__ = ["guard", "guarded"]


# -- every path has an owner

ROLES = {
    "/v1/check-in": Role.DEVICE,
    "/v1/tasks/{task}/update": Role.DEVICE,
    "/v1/tasks/{task}/failure": Role.DEVICE,
    "/v1/blobs/{digest}": Role.ANYBODY,
    "/v1/enrolment": Role.ANYBODY,
    "/": Role.ANYBODY,
    "/dashboard/{file}": Role.ANYBODY,
    "/healthz": Role.ANYBODY,
    "/readyz": Role.ANYBODY,
    "/metrics": Role.OPERATOR,
    "/v1/attempts": Role.OPERATOR,
    "/v1/attempts/{entry}/tasks": Role.OPERATOR,
    "/openapi.json": Role.ANYBODY,
    "/v1/versions": Role.OPERATOR,
    "/v1/versions/{version}/rollback": Role.OPERATOR,
    "/v1/status": Role.OPERATOR,
    "/v1/devices": Role.OPERATOR,
    "/v1/devices/{device}/revoke": Role.OPERATOR,
    "/v1/invitations": Role.OPERATOR,
}


def test_every_path_has_the_owner_that_this_table_gives_it() -> None:
    paths = {route.path for route in create_app(None).routes}  # type: ignore[attr-defined]
    assert paths == set(ROLES)
    for path, role in ROLES.items():
        assert role_of(re.sub(r"\{\w+\}", "7", path)) is role


@pytest.mark.parametrize(
    "path",
    [
        "/dashboard",
        "/dashboard/x/y",
        "/v1",
        "/v1/check-in/",
        "/V1/CHECK-IN",
        "//healthz",
        "/healthz/x",
        "/v1/new",
    ],
)
def test_what_nobody_thought_of_is_an_operators(path: str) -> None:
    assert role_of(path) is Role.OPERATOR


def test_who_says_nothing_gets_nothing(guarded: Guarded) -> None:
    filled = {
        "task": "some-task",
        "version": "0",
        "device": "0" * 32,
        "digest": "0" * 64,
        "entry": "1",
        "file": "page.css",
    }
    for route in create_app(None).routes:
        if not isinstance(route, APIRoute):
            continue
        path = route.path.format(**filled)
        for method in route.methods:
            answer = guarded.client.run(guarded.client.send(method, path))
            if role_of(path) is Role.ANYBODY:
                assert answer.status != 401
            else:
                assert answer.problem.reason is Reason.LOGIN_NEEDED


def test_a_websocket_is_closed(guarded: Guarded) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    app = guarded_app(guarded.served)
    scope = {"type": "websocket", "path": "/healthz", "headers": [], "subprotocols": []}
    guarded.client.run(app(scope, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_what_anybody_may_ask(guarded: Guarded) -> None:
    assert guarded.client.get("/healthz").status == 200
    assert guarded.client.get("/openapi.json").status == 200
    digest = guarded.served.artifact.digest
    assert guarded.client.get(f"/v1/blobs/{digest}").status == 200


# -- operators


@pytest.mark.parametrize(
    "given",
    ["Bearer wrong-wrong-wrong-wrong-wrong", "Basic dXNlcjpwYXNz", OPERATOR, f"Bearer  {OPERATOR}"],
)
def test_another_token_is_refused(guarded: Guarded, given: str) -> None:
    answer = guarded.client.get("/v1/status", authorization=given)
    assert answer.problem.reason is Reason.BAD_TOKEN
    assert OPERATOR not in answer.body.decode()


def test_an_operator_may_ask(guarded: Guarded) -> None:
    assert status_of(guarded).version == 0
    assert guarded.operator("POST", "/v1/versions/0/rollback").status == 200
    assert status_of(guarded).version == 1


def test_an_operator_is_no_device_and_a_device_no_operator(guarded: Guarded) -> None:
    message = {"protocol": 1, "device": "0" * 32, "plans": ["whole"]}
    answer = guarded.operator("POST", "/v1/check-in", message)
    assert answer.problem.reason is Reason.LOGIN_NEEDED
    device = guarded.device()
    assert device.send("GET", "/v1/status", b"").problem.reason is Reason.LOGIN_NEEDED


def test_tokens_cannot_be_tried_for_long(guarded: Guarded) -> None:
    reasons = [
        guarded.client.get("/v1/status", authorization="Bearer x").problem for _ in range(40)
    ]
    assert reasons[0].reason is Reason.BAD_TOKEN
    assert reasons[-1].reason is Reason.TOO_MANY
    assert reasons[-1].retry_after_seconds
    assert guarded.operator("GET", "/v1/status").problem.reason is Reason.TOO_MANY


# -- signatures


def test_a_request_counts_once(guarded: Guarded) -> None:
    device = guarded.device()
    message = {"protocol": 1, "device": device.device, "plans": ["whole"]}
    body = json.dumps(message).encode()
    headers = device.headers("POST", "/v1/check-in", body)
    assert device.raw("POST", "/v1/check-in", body, headers).status == 200
    again = device.raw("POST", "/v1/check-in", body, headers).problem
    assert again.reason is Reason.WRONG_TIME
    assert "last request" in again.detail


@pytest.mark.parametrize("seconds", [-REQUEST_SECONDS - 1, REQUEST_SECONDS + 1, 10**9])
def test_a_request_of_another_time_is_refused(guarded: Guarded, seconds: float) -> None:
    device = guarded.device()
    guarded.served.clock.move(2 * REQUEST_SECONDS)
    device.now = guarded.served.clock.now + seconds
    assert device.check_in().problem.reason is Reason.WRONG_TIME
    device.now = guarded.served.clock.now
    assert device.check_in().status == 200


def test_what_was_signed_before_a_restart_is_not_taken_after_it(guarded: Guarded) -> None:
    device = guarded.device()
    body = json.dumps({"protocol": 1, "device": device.device, "plans": ["whole"]}).encode()
    seen = device.headers("POST", "/v1/check-in", body)
    assert device.raw("POST", "/v1/check-in", body, seen).status == 200
    guarded.served.clock.move(10)
    with ExitStack() as stack:  # another process would remember as little
        again = stack.enter_context(Client(guarded_app(guarded.served)))
        replayed = again.run(again.send("POST", "/v1/check-in", body, seen))
        assert replayed.problem.reason is Reason.WRONG_TIME
        device.client, device.now = again, guarded.served.clock.now
        assert device.check_in().status == 200


def test_a_signature_is_of_one_method_path_and_body(guarded: Guarded) -> None:
    device = guarded.device()
    offer = offer_of(device)
    body = update_of(guarded.served.artifact, offer)
    path, failure = path_of(offer), f"/v1/tasks/{offer.task}/failure"
    for method, signed_path, sent_path in (
        ("POST", path, path),
        ("PUT", "/v1/tasks/other/update", path),
        ("PUT", failure, path),
    ):
        headers = device.headers(method, signed_path, body)
        answer = device.raw("PUT", sent_path, body, headers)
        assert answer.problem.reason is Reason.BAD_SIGNATURE
    changed = bytearray(body)
    changed[-1] ^= 1
    answer = device.raw("PUT", path, bytes(changed), device.headers("PUT", path, body))
    assert answer.problem.reason is Reason.BAD_SIGNATURE
    assert status_of(guarded).accepted == 0
    assert device.send("PUT", path, body).status == 200


def test_a_task_is_nobody_elses(guarded: Guarded) -> None:
    owner, other = guarded.device(), guarded.device()
    offer = offer_of(owner)
    body = update_of(guarded.served.artifact, offer)
    stolen = other.send("PUT", path_of(offer), body).problem
    unknown = other.send("PUT", "/v1/tasks/nobodys/update", body).problem
    assert stolen.reason is unknown.reason is Reason.NO_SUCH_TASK
    assert stolen.detail.replace(offer.task, "") == unknown.detail.replace("nobodys", "")
    given = other.send("POST", f"/v1/tasks/{offer.task}/failure", {"reason": "other"})
    assert given.problem.reason is Reason.NO_SUCH_TASK
    assert owner.send("PUT", path_of(offer), body).status == 200
    # Also of a task that is over, whose receipt would tell the digest of the update.
    assert other.send("PUT", path_of(offer), body).problem.reason is Reason.NO_SUCH_TASK


def test_a_device_speaks_for_itself(guarded: Guarded) -> None:
    device, other = guarded.device(), guarded.device()
    problem = device.check_in(device=other.device).problem
    assert problem.reason is Reason.BAD_MESSAGE
    assert device.device in problem.detail


def test_a_device_that_asks_too_often_has_to_wait(guard: Guard) -> None:
    guarded = guard(requests=5)
    busy, other = guarded.device(), guarded.device()
    statuses = [busy.check_in().status for _ in range(7)]
    assert statuses == [200] * 5 + [429] * 2
    assert other.check_in().status == 200


def test_a_stranger_costs_no_body(guarded: Guarded) -> None:
    stranger = guarded.stranger()
    body = b"x" * 100_000
    path = "/v1/tasks/some-task/update"
    answer = stranger.raw("PUT", path, body, stranger.headers("PUT", path, body))
    assert answer.problem.reason is Reason.NOT_ENROLLED
    assert answer.chunks_read == 0
    assert answer.headers["connection"] == "close"


def test_addresses_of_one_ipv6_network_are_one() -> None:
    assert address_of({"client": ("2001:db8::1%eth0", 1)}) == "2001:db8::/64"
    assert address_of({"client": None}) == ""
