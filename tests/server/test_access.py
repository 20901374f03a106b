"""Who may ask a server with a login for what."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from ravan_edge.artifact import Artifact
from ravan_edge.protocol import DeviceInfo, Devices, Invitations, Reason, ServerStatus, TaskOffer
from ravan_server.access import Role, address_of, role_of
from ravan_server.app import create_app
from ravan_server.replay import REQUEST_SECONDS
from tests.server.asgi import Client
from tests.server.devices import path_of, update_of
from tests.server.login_kit import OPERATOR, Guarded, Signer, guarded_app, open_guarded

Guard = Callable[..., Guarded]


@pytest.fixture
def guard(artifact: Artifact, tmp_path: Path) -> Iterator[Guard]:
    """``guard(goal=3, requests=...)``: a server with a login that ends with the test."""
    with ExitStack() as stack:
        yield partial(open_guarded, stack, artifact, tmp_path / "state")


@pytest.fixture
def guarded(guard: Guard) -> Guarded:
    return guard(goal=100_000)


def offer_of(signer: Signer) -> TaskOffer:
    answer = signer.check_in()
    assert answer.status == 200, answer.body
    return TaskOffer.model_validate_json(answer.body)


def status_of(guarded: Guarded) -> ServerStatus:
    return ServerStatus.model_validate_json(guarded.operator("GET", "/v1/status").body)


# -- every path has an owner

ROLES = {
    "/v1/check-in": Role.DEVICE,
    "/v1/tasks/{task}/update": Role.DEVICE,
    "/v1/tasks/{task}/failure": Role.DEVICE,
    "/v1/blobs/{digest}": Role.ANYBODY,
    "/v1/enrolment": Role.ANYBODY,
    "/healthz": Role.ANYBODY,
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
    "path", ["/", "/v1", "/v1/check-in/", "/V1/CHECK-IN", "//healthz", "/healthz/x", "/v1/new"]
)
def test_what_nobody_thought_of_is_an_operators(path: str) -> None:
    assert role_of(path) is Role.OPERATOR


def test_who_says_nothing_gets_nothing(guarded: Guarded) -> None:
    filled = {"task": "some-task", "version": "0", "device": "0" * 32, "digest": "0" * 64}
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


# -- enrolment


def test_a_device_enrols_and_takes_part(guarded: Guarded) -> None:
    device = guarded.device()
    offer = offer_of(device)
    body = update_of(guarded.served.artifact, offer)
    sent = device.send("PUT", path_of(offer), body)
    assert sent.json()["status"] == "accepted"
    assert device.send("PUT", path_of(offer), body).json()["status"] == "already_have_it"
    assert status_of(guarded).accepted == 1


def test_an_invitation_is_used_up(guarded: Guarded) -> None:
    token = guarded.invite(uses=2, note="the lab").token
    first, second, third = (guarded.stranger() for _ in range(3))
    assert [each.enrol(token).status for each in (first, second)] == [200, 200]
    refused = third.enrol(token).problem
    assert refused.reason is Reason.BAD_TOKEN
    assert "used up" in refused.detail
    # Whose answer was lost asks again, and costs nothing.
    assert first.enrol(token).status == 200
    (info,) = Invitations.model_validate_json(
        guarded.operator("GET", "/v1/invitations").body
    ).invitations
    assert (info.invitation, info.uses, info.used, info.note) == (1, 2, 2, "the lab")
    assert third.check_in().problem.reason is Reason.NOT_ENROLLED


def test_an_invitation_expires(guarded: Guarded) -> None:
    token = guarded.invite(valid_seconds=60).token
    guarded.served.clock.move(59)
    stranger = guarded.stranger()
    assert stranger.enrol(token).status == 200
    guarded.served.clock.move(1)
    late = guarded.stranger()
    problem = late.enrol(token).problem
    assert problem.reason is Reason.BAD_TOKEN
    assert "expired" in problem.detail


def test_an_enrolment_needs_the_key_that_it_brings(guarded: Guarded) -> None:
    token = guarded.invite().token
    thief, owner = guarded.stranger(), guarded.stranger()
    message = {"protocol": 1, "token": token, "public_key": owner.public_key}
    body = json.dumps(message).encode()
    stolen = thief.raw("POST", "/v1/enrolment", body, thief.headers("POST", "/v1/enrolment", body))
    assert stolen.problem.reason is Reason.BAD_SIGNATURE
    other_body = owner.raw(
        "POST", "/v1/enrolment", body + b" ", owner.headers("POST", "/v1/enrolment", body)
    )
    assert other_body.problem.reason is Reason.BAD_SIGNATURE
    assert owner.raw("POST", "/v1/enrolment", body, {"content-type": "application/json"}).problem
    assert owner.enrol(token).status == 200


def test_tokens_of_invitations_cannot_be_tried_for_long(guarded: Guarded) -> None:
    stranger = guarded.stranger()
    reasons = [stranger.enrol("x" * 43).problem.reason for _ in range(40)]
    assert reasons[0] is Reason.BAD_TOKEN
    assert reasons[-1] is Reason.TOO_MANY


def test_no_token_is_in_the_state_folder(guarded: Guarded) -> None:
    token = guarded.invite().token
    guarded.stranger().enrol(token)
    found = [
        path
        for path in guarded.served.state.rglob("*")
        if path.is_file() and (token.encode() in path.read_bytes())
    ]
    assert found == []


def test_a_server_without_a_login_has_no_enrolment(guarded: Guarded) -> None:
    stranger = Signer(guarded.served.client, 77)
    problem = stranger.enrol("x" * 43).problem
    assert problem.reason is Reason.NO_SUCH_PATH
    assert "no login" in problem.detail


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


# -- shutting out


def revoke(guarded: Guarded, device: Signer) -> DeviceInfo:
    answer = guarded.operator("POST", f"/v1/devices/{device.device}/revoke")
    assert answer.status == 200, answer.body
    return DeviceInfo.model_validate_json(answer.body)


def test_who_is_shut_out_gets_and_sends_nothing(guarded: Guarded) -> None:
    device = guarded.device()
    offer = offer_of(device)
    before = status_of(guarded)
    info = revoke(guarded, device)
    assert info.device == device.device
    assert info.revoked_at is not None
    assert revoke(guarded, device) == info
    assert status_of(guarded).training == before.training - 1
    assert device.check_in().problem.reason is Reason.REVOKED
    body = update_of(guarded.served.artifact, offer)
    assert device.send("PUT", path_of(offer), body).problem.reason is Reason.REVOKED
    assert device.enrol(guarded.invite().token).problem.reason is Reason.REVOKED


def test_what_a_shut_out_device_sent_to_the_open_round_is_not_merged(guard: Guard) -> None:
    guarded = guard(goal=2, over_selection=2)
    bad, good, better = (guarded.device() for _ in range(3))
    offers = {each.device: offer_of(each) for each in (bad, good, better)}

    def send(device: Signer) -> None:
        offer = offers[device.device]
        body = update_of(guarded.served.artifact, offer)
        assert device.send("PUT", path_of(offer), body).status == 200

    send(bad)
    assert status_of(guarded).accepted == 1
    revoke(guarded, bad)
    assert status_of(guarded).accepted == 0
    send(good)
    assert status_of(guarded).version == 0
    send(better)
    guarded.served.until(lambda status: status.version == 1)
    with guarded.served.coordinator._store.reading() as transaction:
        states = {row.device: row.state.value for row in transaction.tasks(1)}
        assert transaction.latest_version().updates == 2
    assert states == {bad.device: "unused", good.device: "merged", better.device: "merged"}


def test_only_enrolled_devices_can_be_shut_out(guarded: Guarded) -> None:
    answer = guarded.operator("POST", f"/v1/devices/{'0' * 32}/revoke")
    assert answer.problem.reason is Reason.NO_SUCH_DEVICE
    assert guarded.operator("POST", "/v1/devices/nonsense/revoke").problem.reason is (
        Reason.BAD_MESSAGE
    )


def test_devices_are_listed_page_by_page(guarded: Guarded) -> None:
    token = guarded.invite(uses=1_000_000).token
    known = []
    for _ in range(1003):
        stranger = guarded.stranger()
        known.append(stranger.device)
        guarded.served.coordinator.members.enrol(token, stranger.public_key).result()
    found: list[str] = []
    after: int | None = 0
    while after is not None:
        answer = guarded.operator("GET", f"/v1/devices?after={after}")
        page = Devices.model_validate_json(answer.body)
        found += [each.device for each in page.devices]
        after = page.after
    assert found == known


def test_addresses_of_one_ipv6_network_are_one() -> None:
    assert address_of({"client": ("2001:db8::1%eth0", 1)}) == "2001:db8::/64"
    assert address_of({"client": None}) == ""


def test_a_device_id_is_made_of_its_key(guarded: Guarded) -> None:
    device = guarded.device()
    digest = hashlib.sha256(bytes.fromhex(device.public_key)).hexdigest()
    assert device.device == digest[:32]
