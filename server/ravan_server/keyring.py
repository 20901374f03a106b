"""The keys of enrolled devices, as many in memory as come often."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from ravan_edge.protocol import Reason, Refusal
from ravan_server.store import Store

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

__all__ = ["Keyring"]

_MOST_KEYS = 100_000


class Keyring:
    """Looks up keys by device, from any thread.

    Args:
        store: Where they are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys: OrderedDict[str, Ed25519PublicKey] = OrderedDict()
        self._forgotten = 0
        self._lock = threading.Lock()

    def known(self, device: str) -> Ed25519PublicKey | None:
        """The key of a device that came lately."""
        with self._lock:
            key = self._keys.get(device)
            if key is not None:
                self._keys.move_to_end(device)
            return key

    def look_up(self, device: str) -> Ed25519PublicKey:
        """The key of any device; reads the store.

        Raises:
            Refusal: It is not enrolled, or shut out.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

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
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(row.public_key))
        with self._lock:
            # Whoever was shut out since the look into the store must not be remembered as he was then.
            if forgotten == self._forgotten:
                self._keys[device] = key
                if len(self._keys) > _MOST_KEYS:
                    self._keys.popitem(last=False)
        return key

    def forget(self, device: str) -> None:
        """Its key must be looked up again: it was shut out."""
        with self._lock:
            self._forgotten += 1
            self._keys.pop(device, None)
