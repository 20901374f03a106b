"""How many files this process may have open, sockets among them."""

from __future__ import annotations

import contextlib

__all__ = ["open_files"]

# What macOS takes where it says "unlimited" (OPEN_MAX of its sys/syslimits.h).
_OFTEN_TAKEN = 10_240


def open_files(wanted: int) -> int | None:
    """Raise the soft limit to the hard one, and say what it is then; None: there is none.

    Args:
        wanted: How many will be needed, for systems whose hard limit is no number.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    unlimited = hard == resource.RLIM_INFINITY
    for most in (wanted, _OFTEN_TAKEN) if unlimited else (hard,):
        if most > soft:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
                break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
