"""The server's certificate."""

from __future__ import annotations

import ssl
from pathlib import Path

from ravan_edge.errors import UsageError
from ravan_edge.files import storage_errors
from ravan_server.settings import ServerSettings

__all__ = ["tls_context"]


def tls_context(settings: ServerSettings) -> ssl.SSLContext | None:
    """TLS 1.2 or newer with the certificate of the settings; None: they name none.

    Raises:
        StorageError: A file cannot be read.
        UsageError: The files are no certificate with its key, in PEM.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None or key is None:
        return None
    for path in (certificate, key):
        with storage_errors(path, "read the file"), Path(path).open("rb") as file:
            file.read(1)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # An empty password: a key that needs one is refused, not asked for on a terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        mismatch = "MISMATCH" in (error.reason or "")
        found = (
            "the key is not the one of the certificate"
            if mismatch
            else f"no certificate with its key: {error.reason or 'PEM expected'}"
        )
        raise UsageError(
            found,
            where=f"--tls-certificate {certificate} --tls-key {key}",
            hint="give both as PEM: the certificate first and those that signed it behind it; "
            "the key without a password",
        ) from None
    return context
