"""Sizes of memory as people write them."""

from __future__ import annotations

import re

from ravan_edge.errors import UsageError

__all__ = ["format_bytes", "parse_bytes"]

_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z]*)\s*", re.ASCII)
_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip


def parse_bytes(text: str, *, where: str = "--memory-limit") -> int:
    """A number of bytes. MB is 10^6 bytes, MiB is 2^20; a bare number is bytes.

    Raises:
        UsageError: Not a size, or none above zero.

    >>> [parse_bytes(text) for text in ("300MB", "64MiB", "1.5 GB", "4096")]
    [300000000, 67108864, 1500000000, 4096]
    """
    match = _SIZE.fullmatch(text)
    factor = _UNITS.get(match[2].lower()) if match else None
    size = round(float(match[1]) * factor) if match and factor else 0
    if size < 1:
        raise UsageError(
            f"{text!r} is not a size", where=where, hint="write it like 300MB or 64MiB"
        )
    return size


def format_bytes(size: float) -> str:
    """A size for people, in powers of ten with three digits.

    >>> [format_bytes(size) for size in (0, 999, 12_345, 300_000_000, 1_500_000_000)]
    ['0 B', '999 B', '12.3 kB', '300 MB', '1.5 GB']
    """
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
