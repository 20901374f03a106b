"""When devices without a task are asked to come back: spread out, so that they do not come at once.

As in Google's protocol ("Towards federated learning at scale", Bonawitz et al., MLSys 2019, section
on pace steering): the server cannot call devices, so it tells each a window, and the device comes at a
random moment of it. With N devices and a wish for at most R of them a second the window is N / R long.
N is not known; what is known is how many came lately.
"""

from __future__ import annotations

from collections import deque

__all__ = ["ReturnWindows"]

_SHORTEST_SECONDS = 2.0
_LONGEST_SECONDS = 86_400.0
_MEMORY_SECONDS = 3_600


class ReturnWindows:
    """Counts arrivals, and says when to come back.

    Args:
        per_second: How many devices a second are welcome.

    >>> windows = ReturnWindows(per_second=10)
    >>> windows.arrived(now=0.0)
    >>> windows.window(now=0.0, wait=5.0)
    (5.0, 7.0)
    >>> for _ in range(999):
    ...     windows.arrived(now=0.5)
    >>> windows.window(now=0.5, wait=5.0)
    (5.0, 105.0)
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._buckets: deque[list[int]] = deque()  # [second, arrivals]
        self._spread = _SHORTEST_SECONDS

    def arrived(self, now: float) -> None:
        """A device without a task was here."""
        second = int(now)
        if self._buckets and self._buckets[-1][0] >= second:
            self._buckets[-1][1] += 1
        else:
            self._buckets.append([second, 1])
            while self._buckets[0][0] < second - _MEMORY_SECONDS:
                self._buckets.popleft()

    def waiting(self, now: float) -> int:
        """About how many devices there are: those that came within the last window."""
        since = now - max(1.0, self._spread)
        count = 0
        for second, arrivals in reversed(self._buckets):
            if second < since - 1:
                break
            count += arrivals
        return count

    def window(self, now: float, wait: float) -> tuple[float, float]:
        """Seconds from now: the earliest and the latest moment to come back.

        Args:
            now: Seconds.
            wait: For how long nothing can be had anyway.
        """
        spread = self.waiting(now) / self._per_second
        self._spread = min(max(spread, _SHORTEST_SECONDS), _LONGEST_SECONDS)
        earliest = min(max(wait, 0.0), _LONGEST_SECONDS)
        return earliest, earliest + self._spread
