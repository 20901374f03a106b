"""Who simulated devices are to a server with a login: each has a key of its own in the run folder.

::

    OUT/devices/N/device.key     ed25519, PKCS 8 in PEM, for its owner only

The run has the operators' token, and lets its devices in with invitations that it makes itself.
"""

from __future__ import annotations

from pathlib import Path

from ravan_edge.device import DeviceKey, ServerConnection
from ravan_edge.files import storage_errors
from ravan_edge.protocol import InviteDevices, Reason, Refusal
from ravan_edge.signing import load_private_key, make_private_key

__all__ = ["ServerIdentities"]

_KEY_NAME = "device.key"
_NOTE = "ravan simulate"


class ServerIdentities:
    """The connections of a run's devices.

    Args:
        connection: The run's own, an operator's.
        devices: How many there are.
        login: Whether they enrol; otherwise all use the run's connection.
    """

    def __init__(self, connection: ServerConnection, devices: int, *, login: bool) -> None:
        self._connection = connection
        self._devices = devices
        self._login = login
        self._token: str | None = None
        self._known: dict[Path, ServerConnection] = {}

    def connection(self, folder: Path) -> ServerConnection:
        """That of one device, which is let in if it is not yet.

        Its key stays when the run is resumed. Each process asks once to be let in: a device that is in
        uses up nothing, and the server may be at another address now, or begin anew.

        Args:
            folder: The device's; it exists.

        Raises:
            Refusal: The server does not let it in.
            StorageError: The key cannot be written or read.
        """
        if not self._login:
            return self._connection
        if folder not in self._known:
            path = folder / _KEY_NAME
            if not path.exists():
                make_private_key(path)
            own = self._connection.signed_by(DeviceKey(load_private_key(path)))
            try:
                self._enrol(own)
            except Refusal as refusal:
                if refusal.reason is not Reason.NO_SUCH_PATH:
                    raise
                self._login = False  # this server takes everybody
                with storage_errors(path, "delete the file"):
                    path.unlink()
                return self._connection
            self._known[folder] = own
        return self._known[folder]

    def _enrol(self, own: ServerConnection) -> None:
        if self._token is not None:
            try:
                own.enrol(self._token)
            except Refusal as refusal:
                if refusal.reason is not Reason.BAD_TOKEN:  # an old one: another is made
                    raise
            else:
                return
        asked = InviteDevices(uses=self._devices, note=_NOTE)
        self._token = self._connection.invite(asked).token
        own.enrol(self._token)
