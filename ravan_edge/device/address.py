"""Where a server is, and whether what answers there is it: addresses and certificates."""

from __future__ import annotations

import ipaddress
import re
import ssl
from pathlib import Path

import httpx2

from ravan_edge.errors import UsageError
from ravan_edge.files import storage_errors
from ravan_edge.hosts import is_loopback

__all__ = ["certificate_error", "server_address", "trusting"]

_LARGEST_PORT = 65_535
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


def server_address(url: str) -> str:
    """The address of a server in the one form in which it is kept and compared.

    Raises:
        UsageError: It is none.
    """
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        parsed = httpx2.URL("")
    host = parsed.raw_host.decode("ascii", "replace")
    if (
        parsed.scheme not in {"http", "https"}
        or not (_HOST.fullmatch(host) or _is_address(host))
        or (parsed.port is not None and parsed.port > _LARGEST_PORT)
    ):
        raise UsageError(
            f"{url[:200]!r} is no address of a server",
            where="--server",
            hint="use http://HOST:PORT, as `ravan serve` prints it",
        )
    if parsed.scheme == "http" and not is_loopback(host.lower()):
        raise UsageError(
            f"{url[:200]!r} would send updates and tokens for all to read",
            where="--server",
            hint="use https://; http:// is for servers of this machine (127.0.0.1)",
        )
    return str(parsed).rstrip("/")


def trusting(ca: Path) -> ssl.SSLContext:
    """The system's authorities and these.

    Args:
        ca: PEM.

    Raises:
        UsageError: It holds no certificate.
        StorageError: It cannot be read.
    """
    with storage_errors(ca, "read the file"):
        content = ca.read_bytes()
    context = httpx2.create_ssl_context(trust_env=False)
    try:
        context.load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise UsageError(
            "holds no certificate in PEM",
            where=f"--ca {ca}",
            hint="give the certificate of the authority, which begins with -----BEGIN CERTIFICATE-----",
        ) from None
    return context


def certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """What is behind an error, if it is a certificate."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
