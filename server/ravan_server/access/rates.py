"""How often somebody may do something in a minute.

Counted here and not by a library: those that count in memory look at every key again and again to forget the
old ones, which with 100,000 devices takes longer than answering them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["WINDOW_SECONDS", "Rate"]

WINDOW_SECONDS = 60.0
_MOST_KEYS = 1_000_000


class Rate:
    """Counts what each did in the minute that runs; all are forgotten at its end, at once.

    Args:
        most: For one, in one minute.
        clock: Seconds that only go forward.

    >>> rate = Rate(most=2, clock=lambda: 0.0)
    >>> [rate.hit("somebody") for _ in range(3)], rate.hit("another"), rate.full("somebody")
    ([True, True, False], True, True)
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._clock = clock
        self._began = clock()
        self._counts: dict[str, int] = {}

    def hit(self, who: str) -> bool:
        """It was done once more; whether it may be."""
        self._turn()
        count = self._counts.get(who, 0)
        if count >= self.most:
            return False
        if count or len(self._counts) < _MOST_KEYS:
            self._counts[who] = count + 1
        return True

    def full(self, who: str) -> bool:
        """Whether it may not be done once more."""
        self._turn()
        return self._counts.get(who, 0) >= self.most

    @property
    def left_seconds(self) -> float:
        """Until all begin anew."""
        self._turn()
        return self._began + WINDOW_SECONDS - self._clock()

    def _turn(self) -> None:
        now = self._clock()
        if now - self._began >= WINDOW_SECONDS:
            self._began, self._counts = now, {}
