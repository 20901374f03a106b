"""The log says who did what, how often a stranger may fill it, and no secret."""

from __future__ import annotations

import logging

import pytest

from ravan_edge.protocol import Reason
from ravan_server.access.access_log import AccessLog
from tests.server.devices import path_of, update_of
from tests.server.login_kit import OPERATOR, Guard, Guarded, guard, guarded, offer_of

__all__ = ["guard", "guarded"]


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_what_operators_and_devices_do_is_logged_without_any_secret(
    guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    guarded = guard(goal=1, over_selection=1)
    token = guarded.invite(uses=2).token
    device, other = guarded.stranger(), guarded.stranger()
    assert device.enrol(token).status == other.enrol(token).status == 200
    offer = offer_of(device)
    update = update_of(guarded.served.artifact, offer)
    assert device.send("PUT", path_of(offer), update).status == 200
    guarded.served.until(lambda status: status.version == 1)
    assert guarded.operator("POST", "/v1/versions/0/rollback").status == 200
    assert guarded.operator("POST", f"/v1/devices/{other.device}/revoke").status == 200
    said = [record.getMessage() for record in caplog.records]
    for line in (
        "invitation 1 for 2 devices, by an operator at 127.0.0.1",
        f"device {device.device} enrolled with invitation 1, at 127.0.0.1",
        f"device {other.device} enrolled with invitation 1, at 127.0.0.1",
        "version 2 has the heads of version 0 again, by an operator at 127.0.0.1",
        f"device {other.device} is shut out, by an operator at 127.0.0.1",
    ):
        assert said.count(line) == 1, said
    for secret in (token, OPERATOR, offer.task):
        assert secret not in caplog.text


def test_a_refused_command_is_no_deed(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    assert guarded.operator("POST", "/v1/versions/7/rollback").status == 404
    assert guarded.operator("POST", f"/v1/devices/{'0' * 32}/revoke").status == 404
    assert "operator at" not in caplog.text


@pytest.mark.parametrize("who", ["operator", "unknown", "revoked", "signature", "enrolment"])
def test_logins_that_fail_are_logged_without_what_they_tried(
    guarded: Guarded, caplog: pytest.LogCaptureFixture, who: str
) -> None:
    device, stranger = guarded.device(), guarded.stranger()
    caplog.clear()
    if who == "operator":
        headers = {"authorization": "Bearer a-wrong-guess", "content-length": "0"}
        stranger.raw("GET", "/v1/status", b"", headers)
        expected = f"an operator at 127.0.0.1, {Reason.BAD_TOKEN.value}"
    elif who == "unknown":
        stranger.check_in()
        expected = f"device {stranger.device} at 127.0.0.1, {Reason.NOT_ENROLLED.value}"
    elif who == "revoked":
        guarded.operator("POST", f"/v1/devices/{device.device}/revoke")
        device.check_in()
        expected = f"device {device.device} at 127.0.0.1, {Reason.REVOKED.value}"
    elif who == "signature":
        headers = device.headers("POST", "/v1/check-in", b"{}")
        device.raw("POST", "/v1/tasks/some/failure", b"{}", headers)
        expected = f"device {device.device} at 127.0.0.1, {Reason.BAD_SIGNATURE.value}"
    else:
        stranger.enrol("a-wrong-guess-of-a-token-0123456789")
        expected = f"an enrolment at 127.0.0.1, {Reason.BAD_TOKEN.value}"
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == [
        f"a login failed: {expected}"
    ]
    assert "a-wrong-guess" not in caplog.text
    assert device.public_key not in caplog.text


def test_an_address_fills_the_log_with_two_lines_a_minute(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        guarded.stranger().check_in()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("a login failed: device ")
    assert said[1] == "too many logins failed at 127.0.0.1: it has to wait"


def test_many_addresses_and_one_that_enrols_again_and_again_do_not_fill_it_either(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = AccessLog(lines_per_minute=10)
    for number in range(10_000):
        log.enrolled("192.0.2.7", "device", 1)
        log.failed(f"2001:db8:0:{number:x}::/64", "an operator", Reason.BAD_TOKEN)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 11
    assert said[0] == "device device enrolled with invitation 1, at 192.0.2.7"
    assert said[-1] == "more of this in this minute is not logged"
    log.revoked("192.0.2.1", "device")  # what operators do is always there
    assert "is shut out" in caplog.text
