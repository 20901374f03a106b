"""No signed request counts twice: what is remembered of requests that came before.

Each device numbers its requests with the milliseconds at which it signs them. A request must be of about
now, and later than every one of that device before. What came before the process started is not
remembered, so what was signed before that is not taken either.
"""

from __future__ import annotations

from ravan_edge.protocol import Reason, Refusal

__all__ = ["REQUEST_SECONDS", "ReplayGuard"]

REQUEST_SECONDS = 300
"""How far the moment of a signature may be from the server's time."""


class ReplayGuard:
    """Remembers the latest moment of each device for as long as it matters.

    Args:
        started: Seconds since 1970: nothing signed before is taken.

    >>> guard = ReplayGuard(started=100.0)
    >>> guard.take("device", 101_000, now=101.0)
    >>> guard.take("device", 101_000, now=101.0)
    Traceback (most recent call last):
    ravan_edge.protocol.problems.Refusal: not later than the device's last request: sign it again
    """

    def __init__(self, started: float) -> None:
        self._started = int(started * 1000)
        # Two halves, so that what is old is forgotten all at once, without looking at each.
        self._recent: dict[str, int] = {}
        self._older: dict[str, int] = {}
        self._turned_at = started

    def check_time(self, milliseconds: int, now: float) -> None:
        """Whether a signature is of about now.

        Raises:
            Refusal: It is not.
        """
        if abs(milliseconds / 1000 - now) > REQUEST_SECONDS or milliseconds < self._started:
            raise Refusal(
                Reason.WRONG_TIME,
                "not signed within the last minutes by the server's clock, or before it started: "
                "the header date says what time it is here",
            )

    def take(self, device: str, milliseconds: int, now: float) -> None:
        """A request whose signature is valid; it counts from now on.

        Raises:
            Refusal: It is of another time, or not later than the one before.
        """
        self.check_time(milliseconds, now)
        if now - self._turned_at > 2 * REQUEST_SECONDS or now < self._turned_at:
            self._older, self._recent, self._turned_at = self._recent, {}, now
        before = max(self._recent.get(device, 0), self._older.get(device, 0))
        if milliseconds <= before:
            raise Refusal(
                Reason.WRONG_TIME, "not later than the device's last request: sign it again"
            )
        self._recent[device] = milliseconds
