"""Who did what, in the log: operators and devices, and logins that failed. No secret is ever in it.

A stranger must not fill the disk with it: of failed logins, and of devices that enrol again, each gets one
line a minute, and all together so many.
"""

from __future__ import annotations

import logging

from ravan_edge.protocol import Reason
from ravan_server.access.rates import Rate

__all__ = ["AccessLog"]

_log = logging.getLogger(__name__)

_LINES_PER_MINUTE = 60


class AccessLog:
    """Writes the lines. Addresses are those that count as one place: of IPv6 the network of 64 bits.

    Args:
        lines_per_minute: About strangers, all together.
    """

    def __init__(self, lines_per_minute: int = _LINES_PER_MINUTE) -> None:
        self._each = Rate(1)
        self._all = Rate(lines_per_minute)

    def invited(self, address: str, invitation: int, uses: int) -> None:
        """An operator made an invitation."""
        _log.info("invitation %d for %d devices, by an operator at %s", invitation, uses, address)

    def revoked(self, address: str, device: str) -> None:
        """An operator shut a device out."""
        _log.info("device %s is shut out, by an operator at %s", device, address)

    def rolled_back(self, address: str, version: int, copy_of: int) -> None:
        """An operator went back to older heads."""
        _log.info(
            "version %d has the heads of version %d again, by an operator at %s",
            version,
            copy_of,
            address,
        )

    def enrolled(self, address: str, device: str, invitation: int) -> None:
        """A device came in, or asked again after its answer was lost."""
        if self._each.hit(f"enrolled {device}") and self._has_room():
            _log.info("device %s enrolled with invitation %d, at %s", device, invitation, address)

    def failed(self, address: str, who: str, reason: Reason) -> None:
        """A login failed.

        Args:
            address: Where it came from.
            who: Whom the request says it is of: a device by its id, or an operator.
            reason: What it was told.
        """
        if self._each.hit(f"failed {address}") and self._has_room():
            _log.warning("a login failed: %s at %s, %s", who, address, reason.value)

    def locked(self, address: str) -> None:
        """So many logins failed that the address has to wait."""
        if self._each.hit(f"locked {address}") and self._has_room():
            _log.warning("too many logins failed at %s: it has to wait", address)

    def _has_room(self) -> bool:
        if self._all.hit("lines"):
            return True
        if self._each.hit("full"):
            _log.warning("more of this in this minute is not logged")
        return False
