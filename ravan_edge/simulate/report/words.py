"""Numbers and names as a person reads them. These are the page's filters too."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

__all__ = [
    "OUTCOMES",
    "as_bytes",
    "as_count",
    "as_percent",
    "as_ratio",
    "as_seconds",
    "glued",
    "shown",
]

OUTCOMES: Mapping[str, tuple[str, str]] = {
    "merged": ("merged", "its update is in the model"),
    "dropped_out": ("dropped out", "never answered after its download"),
    "late": ("too late", "finished after the round's deadline"),
    "stale": ("too stale", "started more versions ago than are merged"),
    "bad_numbers": ("bad numbers", "NaN, infinity or too large: its update was refused"),
    "crashed": ("crashed", "the process that ran its step died: its update is lost"),
    "no_data": ("no data", "had no rows to train on"),
}
"""What can become of a device's round: the short name and what it means, in the order drawn."""

_NOTHING = "–"
_LONGEST = 120
_UNIT = re.compile(r"(\d) (%|[kMGT]?B|ms|s|min|h|d)(?!\w)")


def as_bytes(number: float | None) -> str:
    """Bytes in powers of 1000, three digits.

    >>> as_bytes(172_544), as_bytes(90_900_000), as_bytes(12), as_bytes(None)
    ('173 kB', '90.9 MB', '12 B', '–')
    """
    if number is None:
        return _NOTHING
    value, unit = float(number), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if abs(value) < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.3g} {unit}"


def as_count(number: float | None) -> str:
    """A number with its thousands apart.

    >>> as_count(1234567), as_count(None)
    ('1,234,567', '–')
    """
    return _NOTHING if number is None else f"{number:,.0f}"


def as_percent(share: float | None) -> str:
    """A share as percent.

    >>> as_percent(0.7312), as_percent(1.0), as_percent(None)
    ('73.1 %', '100 %', '–')
    """
    if share is None:
        return _NOTHING
    return "100 %" if share == 1 else f"{100 * share:.1f} %"


def as_ratio(number: float) -> str:
    """How many times.

    >>> as_ratio(527.3), as_ratio(3.24)
    ('527', '3.2')
    """
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def as_seconds(number: float | None) -> str:
    """A time in the units a person would use.

    >>> as_seconds(0.042), as_seconds(7.25), as_seconds(247), as_seconds(7384), as_seconds(200000)
    ('42 ms', '7.2 s', '4 min 7 s', '2 h 3 min', '2 d 8 h')
    """
    if number is None:
        return _NOTHING
    if number < 0.9995:
        return f"{1000 * number:.0f} ms"
    if number < 59.95:
        return f"{number:.1f} s" if number < 9.95 else f"{number:.0f} s"
    for larger, smaller, big, small in (
        (60, 1, "min", "s"),
        (3600, 60, "h", "min"),
        (86400, 3600, "d", "h"),
    ):
        whole = round(number / smaller) * smaller
        if whole < larger * (24 if larger == 3600 else 60) or larger == 86400:
            rest = whole % larger // smaller
            return f"{whole // larger} {big} {rest} {small}" if rest else f"{whole // larger} {big}"
    raise AssertionError  # days have no end


def shown(text: str) -> str:
    r"""A text of unknown origin, fit for one line: no control characters, of bounded length.

    Controls include those that turn the direction of what follows on the page.

    >>> shown("a\x00b\u202ec"), len(shown("x" * 1000))
    ('a�b�c', 120)
    """
    cut = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(sign) in {"Cc", "Cf", "Cs"} else sign
        for sign in cut
    )


def glued(text: str) -> str:
    r"""A sentence whose numbers stay on one line with their units.

    >>> glued("about 12 kB").split(" ")
    ['about', '12\xa0kB']
    """
    return _UNIT.sub("\\1\N{NO-BREAK SPACE}\\2", text)
