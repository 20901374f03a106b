"""Devices that come in, and devices that are shut out."""

from __future__ import annotations

import hashlib
import json

from ravan_edge.protocol import DeviceInfo, Devices, Invitations, Reason
from tests.server.devices import path_of, update_of
from tests.server.login_kit import (
    Guard,
    Guarded,
    Signer,
    guard,
    guarded,
    offer_of,
    status_of,
)

__all__ = ["guard", "guarded"]


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


def test_a_device_id_is_made_of_its_key(guarded: Guarded) -> None:
    device = guarded.device()
    digest = hashlib.sha256(bytes.fromhex(device.public_key)).hexdigest()
    assert device.device == digest[:32]
