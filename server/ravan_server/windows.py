"""When devices without a task are asked to come back: spread out, so that they do not come at once.

As in Google's protocol ("Towards federated learning at scale", Bonawitz et al., MLSys 2019, section
on pace steering): the server cannot call devices, so it tells each a window, and the device comes at a
random moment of it. With N devices and a wish for at most R of them a second the window is N / R long.
N is not known; what is known is how many came lately. Each counts once, at its latest moment: one that asks a
thousand times a second stretches nobody's window.
"""

from __future__ import annotations

__all__ = ["ReturnWindows"]

_SHORTEST_SECONDS = 2.0
_LONGEST_SECONDS = 86_400.0
_MEMORY_SECONDS = 3_600
_MOST_DEVICES = 100_000  # about 20 MB


class ReturnWindows:
    """Counts devices, and says when to come back.

    Args:
        per_second: How many devices a second are welcome.
        most_devices: How many are known apart, those that came last; of others each arrival counts.

    >>> windows = ReturnWindows(per_second=10)
    >>> windows.arrived("a device", now=0.0)
    >>> windows.window(now=0.0, wait=5.0)
    (5.0, 7.0)
    >>> for number in range(999):
    ...     windows.arrived(f"device {number}", now=0.5)
    >>> windows.window(now=0.5, wait=5.0)
    (5.0, 105.0)
    >>> windows.arrived("a device", now=0.9)
    >>> windows.window(now=0.9, wait=5.0)
    (5.0, 105.0)
    """

    def __init__(self, per_second: float, most_devices: int = _MOST_DEVICES) -> None:
        self._per_second = per_second
        self._most_devices = most_devices
        # Both ascend by second: what comes is put at the end.
        self._arrivals: dict[int, int] = {}  # second -> devices whose latest moment it is
        self._latest: dict[int, int] = {}  # device, as the hash of its name -> second
        self._now = 0
        self._spread = _SHORTEST_SECONDS

    def arrived(self, device: str, now: float) -> None:
        """A device without a task was here."""
        second = self._now = max(self._now, int(now))
        # A hash and not the name: it is smaller, and differs from process to process, so that nobody
        # can look for two names with one.
        key = hash(device)
        before = self._latest.pop(key, None)
        self._latest[key] = second
        if before == second:
            return
        self._arrivals[second] = self._arrivals.get(second, 0) + 1
        if before is not None and before in self._arrivals:
            self._arrivals[before] -= 1
        if len(self._latest) > self._most_devices:
            del self._latest[next(iter(self._latest))]
        while (first := next(iter(self._arrivals))) < second - _MEMORY_SECONDS:
            del self._arrivals[first]

    def waiting(self, now: float) -> int:
        """About how many devices there are: those that came within the last window."""
        since = now - max(1.0, self._spread)
        count = 0
        for second, arrivals in reversed(self._arrivals.items()):
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
