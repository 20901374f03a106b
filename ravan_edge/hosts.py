"""Names and addresses of machines."""

from __future__ import annotations

import ipaddress

__all__ = ["is_loopback"]


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, whatever the network says.

    Args:
        host: An address without brackets, or a name in lower case.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "192.0.2.1", "example.org")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
