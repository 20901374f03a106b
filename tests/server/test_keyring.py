"""Keys in memory: never those of a device that is shut out, never more than wanted."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ravan_edge.protocol import InviteDevices, Reason, Refusal
from ravan_edge.signing import device_of_key
from ravan_server.access.keyring import Keyring
from ravan_server.store import Store, Transaction
from tests.server.conftest import Served


def public_key(number: int) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))
    return key.public_key().public_bytes_raw()


def enrolled(served: Served, count: int) -> list[str]:
    members = served.coordinator.members
    token = members.invite(InviteDevices(uses=count)).token
    for number in range(count):
        members.enrol(token, public_key(number).hex()).result()
    return [device_of_key(public_key(number)) for number in range(count)]


def store_of(served: Served) -> Store:
    return served.coordinator._store


def test_the_latest_are_loaded_and_the_others_looked_up(served: Served) -> None:
    devices = enrolled(served, 5)
    served.coordinator.members.revoke(devices[4])
    keyring = Keyring(store_of(served), most=2)
    keyring.load()
    assert [keyring.known(device) for device in devices] == [False, False, True, True, False]
    for number, device in enumerate(devices[:4]):
        assert keyring.key(device).public_bytes_raw() == public_key(number)
    assert sum(keyring.known(device) for device in devices) == 2
    with pytest.raises(Refusal) as refused:
        keyring.key(devices[4])
    assert refused.value.reason is Reason.REVOKED
    with pytest.raises(Refusal) as refused:
        keyring.key("0" * 32)
    assert refused.value.reason is Reason.NOT_ENROLLED


def test_who_comes_often_stays(served: Served) -> None:
    devices = enrolled(served, 3)
    keyring = Keyring(store_of(served), most=2)
    for device in (devices[0], devices[1], devices[0], devices[2]):
        keyring.key(device)
    assert [keyring.known(device) for device in devices] == [True, False, True]


def test_who_is_shut_out_while_he_is_looked_up_is_not_remembered(served: Served) -> None:
    (device,) = enrolled(served, 1)
    store = store_of(served)

    class Slow:
        """A store whose reader is overtaken: by the time it has read, the device is shut out."""

        def reading(self) -> AbstractContextManager[Transaction]:
            return Overtaken(store.reading())

    class Overtaken:
        def __init__(self, inner: AbstractContextManager[Transaction]) -> None:
            self._inner = inner

        def __enter__(self) -> Transaction:
            return self._inner.__enter__()

        def __exit__(self, *error: object) -> None:
            self._inner.__exit__(*error)
            keyring.forget(device)

    keyring = Keyring(Slow())  # type: ignore[arg-type]
    assert keyring.key(device).public_bytes_raw() == public_key(0)  # he asked before
    assert not keyring.known(device)
