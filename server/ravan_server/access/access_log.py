"""Who did what, in the log: operators and devices, and logins that failed. No secret is ever in it.

A stranger must not fill the disk with it: of failed logins, and of devices that enrol again, each gets one
line a minute, and all together so many.
"""

from __future__ import annotations

import logging

from ravan_edge.protocol import Reason
from ravan_server.access.rates import Rate
from ravan_server.events import Event, log_event

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
        log_event(
            _log,
            logging.INFO,
            Event.DEVICES_INVITED,
            "invitation %(invitation)d for %(uses)d devices, by an operator at %(address)s",
            invitation=invitation,
            uses=uses,
            address=address,
        )

    def revoked(self, address: str, device: str) -> None:
        """An operator shut a device out."""
        log_event(
            _log,
            logging.INFO,
            Event.DEVICE_REVOKED,
            "device %(device)s is shut out, by an operator at %(address)s",
            device=device,
            address=address,
        )

    def rolled_back(self, address: str, version: int, copy_of: int) -> None:
        """An operator went back to older heads."""
        log_event(
            _log,
            logging.INFO,
            Event.ROLLED_BACK,
            "version %(version)d has the heads of version %(copy_of)d again, by an operator at %(address)s",
            version=version,
            copy_of=copy_of,
            address=address,
        )

    def enrolled(self, address: str, device: str, invitation: int) -> None:
        """A device came in, or asked again after its answer was lost."""
        if self._each.hit(f"enrolled {device}") and self._has_room():
            log_event(
                _log,
                logging.INFO,
                Event.DEVICE_ENROLLED,
                "device %(device)s enrolled with invitation %(invitation)d, at %(address)s",
                device=device,
                invitation=invitation,
                address=address,
            )

    def failed(self, address: str, who: str, reason: Reason) -> None:
        """A login failed.

        Args:
            address: Where it came from.
            who: Whom the request says it is of: a device by its id, or an operator.
            reason: What it was told.
        """
        if self._each.hit(f"failed {address}") and self._has_room():
            log_event(
                _log,
                logging.WARNING,
                Event.LOGIN_FAILED,
                "a login failed: %(who)s at %(address)s, %(reason)s",
                who=who,
                address=address,
                reason=reason.value,
            )

    def locked(self, address: str) -> None:
        """So many logins failed that the address has to wait."""
        if self._each.hit(f"locked {address}") and self._has_room():
            text = "too many logins failed at %(address)s: it has to wait"
            log_event(_log, logging.WARNING, Event.LOGIN_LOCKED, text, address=address)

    def _has_room(self) -> bool:
        if self._all.hit("lines"):
            return True
        if self._each.hit("full"):
            log_event(
                _log,
                logging.WARNING,
                Event.LINES_LEFT_OUT,
                "more of this in this minute is not logged",
            )
        return False
