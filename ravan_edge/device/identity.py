"""Who a device is to a server that lets in only those it knows: a key made here, which never leaves.

::

    STATE/device.key       ed25519, PKCS 8 in PEM, for its owner only
    STATE/enrolment.json   where the key is enrolled

The key is on disk before a server hears of it: an enrolment whose answer was lost is asked for again
with the same key, and costs no second use of the token.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ravan_edge.errors import StorageError, UsageError
from ravan_edge.files import storage_errors, write_atomic
from ravan_edge.signing import device_of_key, load_private_key, make_private_key, sign_request

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["DeviceKey", "enrolled_key", "key_for_enrolment", "remember_enrolment"]

_KEY_NAME = "device.key"
_ENROLMENT_NAME = "enrolment.json"
_MOST_BYTES = 10_000


class DeviceKey:
    """Signs the requests of one device.

    Args:
        key: ed25519.
        clock: Seconds since 1970 by this device; what it says wrong is made up for by what servers say.
    """

    def __init__(self, key: Ed25519PrivateKey, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._clock = clock
        self._ahead = 0.0  # of the server's clock before this one, in seconds
        self._last = 0
        self.public_key = key.public_key().public_bytes_raw().hex()
        self.device = device_of_key(bytes.fromhex(self.public_key))

    def sign(self, method: str, path: str, body: bytes) -> dict[str, str]:
        """The headers that sign a request; each is later than the one before."""
        self._last = max(self._last + 1, int((self._clock() + self._ahead) * 1000))
        return sign_request(self._key, method, path, body, self._last)

    def hear_time(self, headers: Mapping[str, str]) -> None:
        """What time it is at the server, by the header ``date`` of its answer."""
        try:
            there = parsedate_to_datetime(headers.get("date", "")).timestamp()
        except ValueError:
            return
        # It has whole seconds, rounded down: better a little ahead than before the server began.
        self._ahead = there + 1.0 - self._clock()
        self._last = 0  # what was signed by the wrong time counts no more


def enrolled_key(folder: Path, server: str) -> DeviceKey | None:
    """The key with which this device is enrolled at a server; None: it is enrolled nowhere.

    Args:
        folder: The device's.
        server: Its address.

    Raises:
        UsageError: It is enrolled at another server.
        StorageError: A file is damaged.
    """
    found = _read(folder)
    if found is None or not found.enrolled:
        return None
    if found.server != server:
        raise UsageError(
            f"this device is enrolled at {found.server}, not at {server}",
            where="--server",
            hint="use that address; or `ravan device enrol` at the other server, or another --state",
        )
    key = DeviceKey(load_private_key(folder / _KEY_NAME))
    if key.device != found.device:
        raise _damaged(folder / _ENROLMENT_NAME)
    return key


def key_for_enrolment(folder: Path, server: str) -> DeviceKey:
    """The key to enrol with at a server, on disk: a new one, unless it was begun with before.

    What this device has signed for one server must mean nothing at another, so each gets its own key.

    Raises:
        StorageError: It cannot be written, or a file is damaged.
    """
    path, found = folder / _KEY_NAME, _read(folder)
    if found is not None and found.server != server:
        with storage_errors(path, "delete the file"):
            path.unlink(missing_ok=True)
    if not path.exists():
        make_private_key(path)
    key = DeviceKey(load_private_key(path))
    if found is None or (found.server, found.device) != (server, key.device):
        _write(folder, _Enrolment(server, key.device, enrolled=False))
    return key


def remember_enrolment(folder: Path, server: str, key: DeviceKey) -> None:
    """The server has let the device in."""
    _write(folder, _Enrolment(server, key.device, enrolled=True))


@dataclass(frozen=True)
class _Enrolment:
    server: str
    device: str
    enrolled: bool


def _read(folder: Path) -> _Enrolment | None:
    path = folder / _ENROLMENT_NAME
    if not path.exists():
        return None
    with storage_errors(path, "read the file"), path.open("rb") as file:
        content = file.read(_MOST_BYTES)
    try:
        values = json.loads(content)
        return _Enrolment(str(values["server"]), str(values["device"]), values["enrolled"] is True)
    except (ValueError, KeyError, TypeError):
        raise _damaged(path) from None


def _write(folder: Path, enrolment: _Enrolment) -> None:
    content = json.dumps(asdict(enrolment), indent=2, sort_keys=True).encode()
    write_atomic(folder / _ENROLMENT_NAME, [content, b"\n"])


def _damaged(path: Path) -> StorageError:
    return StorageError(
        "the file is damaged",
        where=str(path),
        hint="delete it and enrol again, with a new token if the old one is used up",
    )
