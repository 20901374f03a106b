"""When a device may work: on mains power, at night. Each platform has its own way to find out."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Protocol

import psutil

from ravan_edge.errors import UsageError
from ravan_edge.protocol import Conditions

__all__ = ["ConditionSource", "LaptopConditions", "TimeWindow"]

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_DAY_MINUTES = 24 * 60


class ConditionSource(Protocol):
    """How a device is right now. A phone's answers come from its operating system."""

    def now(self) -> Conditions:
        """What is known."""
        ...

    def minute_of_day(self) -> int:
        """Local time: 0 .. 1439."""
        ...


class LaptopConditions:
    """A laptop's or a desktop's."""

    def now(self) -> Conditions:
        """What is known. A machine without a battery is on mains power."""
        battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
        return Conditions(mains_power=True if battery is None else battery.power_plugged)

    def minute_of_day(self) -> int:
        """Local time: 0 .. 1439."""
        local = time.localtime()
        return local.tm_hour * 60 + local.tm_min


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """Hours of the day; may go over midnight.

    Args:
        begin: Minute of the day, the first one within.
        end: The first one behind. Equal to ``begin``: the whole day.

    >>> night = TimeWindow.parse("22:00-06:00")
    >>> [night.holds(minute) for minute in (21 * 60 + 59, 22 * 60, 0, 6 * 60)]
    [False, True, True, False]
    """

    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> TimeWindow:
        """From ``HH:MM-HH:MM``.

        Raises:
            UsageError: It is none.
        """
        match = _HOURS.fullmatch(text.strip())
        if match is None:
            raise UsageError(
                f"{text[:40]!r} are no hours", where="--hours", hint="write them like 22:00-06:00"
            )
        hours = [int(part) for part in match.groups()]
        return cls(hours[0] * 60 + hours[1], hours[2] * 60 + hours[3])

    def holds(self, minute: int) -> bool:
        """Whether a minute of the day is within."""
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end

    def seconds_until(self, minute: int) -> float:
        """From a minute of the day until the window opens; 0 within."""
        return 0.0 if self.holds(minute) else 60.0 * ((self.begin - minute) % _DAY_MINUTES)
