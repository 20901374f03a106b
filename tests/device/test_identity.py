"""A device's key and its enrolment, at a real server with a login."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ravan_edge.artifact import Artifact
from ravan_edge.device import (
    Device,
    DeviceSettings,
    DeviceState,
    ServerConnection,
    enrolled_key,
    key_for_enrolment,
    remember_enrolment,
)
from ravan_edge.device.identity import DeviceKey
from ravan_edge.errors import StorageError, UsageError
from ravan_edge.protocol import CheckIn, InviteDevices, Reason, Refusal
from ravan_edge.signing import RequestSignature, make_private_key
from ravan_server.access.login import Login
from ravan_server.access.replay import ReplayGuard
from ravan_server.coordinator import Coordinator
from ravan_server.settings import ServerSettings
from tests.device.device_kit import ROUNDS, MadeUpConditions, load_rows
from tests.device.fake_server import response
from tests.server.server_kit import Clock, listening, opened_server

OPERATOR = "the-token-of-the-operators-0123456789"
URL = "https://server.test:8750"


@contextmanager
def guarded(artifact: Artifact, state: Path, clock: Clock) -> Iterator[tuple[Coordinator, str]]:
    """A server with a login, over HTTP."""
    settings = ServerSettings(rounds=1)
    with opened_server(artifact, state, clock, ROUNDS, settings) as coordinator:
        login = Login(coordinator.members.keyring, OPERATOR, ReplayGuard(clock()), 1000)
        with listening(coordinator, login) as url:
            yield coordinator, url


@pytest.fixture
def clock() -> Clock:
    return Clock(now=time.time())


@pytest.fixture
def server(artifact: Artifact, tmp_path: Path, clock: Clock) -> Iterator[str]:
    with guarded(artifact, tmp_path / "server", clock) as (_, url):
        yield url


def token(url: str) -> str:
    with ServerConnection(url, token=OPERATOR) as operator:
        return operator.invite(InviteDevices(uses=1)).token


def enrol(folder: Path, url: str, given: str) -> DeviceKey:
    folder.mkdir(exist_ok=True)
    key = key_for_enrolment(folder, url)
    with ServerConnection(url, key=key) as connection:
        assert connection.enrol(given).device == key.device
    remember_enrolment(folder, url, key)
    return key


def test_an_enrolled_device_does_a_whole_round(server: str, rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "device"
    key = enrol(folder, server, token(server))
    again = enrolled_key(folder, server)
    assert again is not None
    assert again.device == key.device
    with ServerConnection(server, key=again) as connection:
        device = Device(
            DeviceState(folder),
            connection,
            load_rows(rows),
            DeviceSettings(tasks=1),
            MadeUpConditions(),
            sleep=lambda seconds: None,
        )
        assert device.run().sent == 1
    with ServerConnection(server, token=OPERATOR) as operator:
        assert [each.device for each in operator.devices().devices] == [key.device]


def test_without_enrolment_the_server_says_what_to_do(server: str) -> None:
    with ServerConnection(server) as connection, pytest.raises(Refusal, match="ravan device enrol"):
        connection.check_in(CheckIn(protocol=1, device="some-device", plans=("whole",)))


def test_a_device_with_a_wrong_clock_is_told_the_time(server: str, tmp_path: Path) -> None:
    key = DeviceKey(make_private_key(tmp_path / "key"), clock=lambda: 1_000.0)
    given = token(server)
    with ServerConnection(server, key=key) as connection:
        assert connection.enrol(given).device == key.device
        # And from then on it knows.
        moment = RequestSignature.read(key.sign("POST", "/v1/check-in", b"")).milliseconds
    assert moment > 1_600_000_000_000


def test_a_server_whose_time_nobody_can_meet_is_refused_in_the_end(tmp_path: Path) -> None:
    asked: list[int] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(RequestSignature.read(request.headers).milliseconds)
        refused = response(
            401, Refusal(Reason.WRONG_TIME, "never").problem.model_dump_json().encode()
        )
        refused.headers["date"] = "yesterday"
        return refused

    key = DeviceKey(make_private_key(tmp_path / "key"))
    with (
        ServerConnection(URL, key=key, transport=httpx2.MockTransport(answer)) as connection,
        pytest.raises(Refusal, match="never"),
    ):
        connection.enrol("x" * 43)
    assert len(asked) == 2
    assert asked[1] > asked[0]


def test_an_enrolment_whose_answer_was_lost_goes_on_with_the_same_key(
    server: str, tmp_path: Path
) -> None:
    folder, given = tmp_path / "device", token(server)
    folder.mkdir()
    lost = key_for_enrolment(folder, server)
    with ServerConnection(server, key=lost) as connection:
        connection.enrol(given)
    assert enrolled_key(folder, server) is None  # killed before it was remembered
    assert enrol(folder, server, given).device == lost.device


def test_a_server_never_sees_the_key_for_another(tmp_path: Path) -> None:
    first = key_for_enrolment(tmp_path, "https://first.test")
    assert key_for_enrolment(tmp_path, "https://first.test").device == first.device
    second = key_for_enrolment(tmp_path, "https://second.test")
    assert second.device != first.device
    remember_enrolment(tmp_path, "https://second.test", second)
    with pytest.raises(UsageError, match=r"enrolled at https://second\.test, not at https://first"):
        enrolled_key(tmp_path, "https://first.test")


def test_the_key_is_for_its_owner_only(tmp_path: Path) -> None:
    key_for_enrolment(tmp_path, URL)
    if os.name != "nt":
        assert stat.S_IMODE((tmp_path / "device.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"server": 1}', "x" * 20_000, "null"])
def test_a_damaged_enrolment_is_said_to_be_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "enrolment.json").write_text(content)
    with pytest.raises(StorageError, match=r"enrolment\.json"):
        enrolled_key(tmp_path, URL)


def test_a_key_that_is_not_the_enrolled_one_is_said_to_be_so(tmp_path: Path) -> None:
    key = key_for_enrolment(tmp_path, URL)
    remember_enrolment(tmp_path, URL, key)
    (tmp_path / "device.key").unlink()
    make_private_key(tmp_path / "device.key")
    with pytest.raises(StorageError, match="damaged"):
        enrolled_key(tmp_path, URL)


def test_moments_go_up_whatever_the_clock_does(tmp_path: Path) -> None:
    times = iter([5.0, 5.0, 4.0, 6.0])
    key = DeviceKey(make_private_key(tmp_path / "key"), clock=lambda: next(times))
    moments = [
        RequestSignature.read(key.sign("POST", "/v1/check-in", b"")).milliseconds for _ in range(4)
    ]
    assert moments == [5000, 5001, 5002, 6000]


def test_what_is_signed_is_what_is_sent(tmp_path: Path) -> None:
    key = DeviceKey(make_private_key(tmp_path / "key"))
    seen = threading.Event()

    def answer(request: httpx2.Request) -> httpx2.Response:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public_key))
        signature = RequestSignature.read(request.headers)
        # A proxy in front takes "/ravan" off.
        assert request.url.path == "/ravan/v1/enrolment"
        assert signature.valid(public, "POST", "/v1/enrolment")
        assert json.loads(request.content)["public_key"] == key.public_key
        seen.set()
        return response(200, document={"device": key.device, "artifact": "0" * 64})

    transport = httpx2.MockTransport(answer)
    with ServerConnection(f"{URL}/ravan/", key=key, transport=transport) as connection:
        connection.enrol("x" * 43)
    assert seen.is_set()
