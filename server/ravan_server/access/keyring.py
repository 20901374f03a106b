"""The keys of enrolled devices in memory, up to a number; of the others in the store.

A look into the database costs more than checking a signature: not for the reading, but because the event
loop's thread gives the interpreter away meanwhile and the writer's keeps it for a while.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ravan_edge.protocol import Reason, Refusal
from ravan_server.store import IdentityRow, Store

__all__ = ["Keyring"]

_MOST_KEYS = 100_000  # about 25 MB


class Keyring:
    """Looks up keys by device, from any thread.

    Args:
        store: Where they are.
        most: How many are kept in memory: those that came last.
    """

    def __init__(self, store: Store, most: int = _MOST_KEYS) -> None:
        self._store = store
        self._most = most
        self._keys: OrderedDict[str, bytes] = OrderedDict()
        self._forgotten = 0
        self._lock = threading.Lock()

    def load(self) -> None:
        """Read the keys of the devices that enrolled last."""
        with self._store.reading() as transaction:
            found = transaction.identities.latest_keys(self._most)
        with self._lock:
            self._keys = OrderedDict(
                (device, bytes.fromhex(key)) for device, key in reversed(found)
            )

    def key(self, device: str) -> Ed25519PublicKey:
        """The key of a device.

        Raises:
            Refusal: It is not enrolled, or shut out.
        """
        with self._lock:
            found = self._keys.get(device)
            if found is not None:
                self._keys.move_to_end(device)
        return Ed25519PublicKey.from_public_bytes(found or self._look_up(device))

    def known(self, device: str) -> bool:
        """Whether its key is in memory."""
        return device in self._keys

    def add(self, row: IdentityRow) -> None:
        """A device that has just enrolled."""
        with self._lock:
            self._insert(row)

    def forget(self, device: str) -> None:
        """Its key must be looked up again: it was shut out."""
        with self._lock:
            self._forgotten += 1
            self._keys.pop(device, None)

    def _look_up(self, device: str) -> bytes:
        forgotten = self._forgotten
        with self._store.reading() as transaction:
            row = transaction.identities.identity(device)
        if row is None:
            raise Refusal(
                Reason.NOT_ENROLLED,
                f"no device {device} is enrolled: `ravan device enrol` does that, with a token from "
                "whoever runs the server",
            )
        if row.revoked_at is not None:
            raise Refusal(
                Reason.REVOKED, f"device {device} is shut out: ask whoever runs the server"
            )
        with self._lock:
            # Whoever was shut out since the look into the store must not be remembered as he was then.
            if forgotten == self._forgotten:
                self._insert(row)
        return bytes.fromhex(row.public_key)

    def _insert(self, row: IdentityRow) -> None:
        self._keys[row.device] = bytes.fromhex(row.public_key)
        if len(self._keys) > self._most:
            self._keys.popitem(last=False)
