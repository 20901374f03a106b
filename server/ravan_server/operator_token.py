"""The token of operators: one secret in one file, which only its owner may read."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from ravan_edge.errors import UsageError
from ravan_edge.files import storage_errors, write_atomic

__all__ = ["OPERATOR_TOKEN_NAME", "operator_token"]

OPERATOR_TOKEN_NAME = "operator.token"  # noqa: S105  (a file's name)
_BYTES = 32
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,200}")


def operator_token(state: Path, named: Path | None) -> str:
    """The token of a server's operators.

    Args:
        state: The state folder: the token is made there once, where no other file is named.
        named: A file that holds it, such as a mounted secret.

    Raises:
        UsageError: The file holds no token.
        StorageError: It cannot be read or made.
    """
    path = named or state / OPERATOR_TOKEN_NAME
    if named is None and not path.exists():
        write_atomic(path, [secrets.token_urlsafe(_BYTES).encode(), b"\n"], private=True)
    with storage_errors(path, "read the token"), path.open("rb") as file:
        content = file.read(1000)
    text = content.decode("ascii", "replace").strip()
    if not _TOKEN.fullmatch(text):
        raise UsageError(
            f"expected 22 to 200 letters, digits, - and _, found {len(content)} other bytes",
            where=str(path),
            hint="make one with: openssl rand -hex 32",
        )
    return text
