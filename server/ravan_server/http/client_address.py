"""From where a client comes, for whatever is counted by address."""

from __future__ import annotations

import ipaddress

__all__ = ["network_of"]

_HOST_BITS = 64  # of an IPv6 address: every host may choose them as it likes


def network_of(client: str) -> str:
    """What counts as one place: an IPv4 address, or the network of 64 bits of an IPv6 one.

    Args:
        client: The address that a socket or a proxy gives; anything else counts as what it is.

    >>> network_of("192.0.2.7"), network_of("2001:db8:1:2:3::4"), network_of("::ffff:192.0.2.7")
    ('192.0.2.7', '2001:db8:1:2::/64', '192.0.2.7')
    """
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv4Address):
        return client
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 128 - _HOST_BITS), strict=False))
