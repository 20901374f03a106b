"""The token of operators: one secret in one file, which only its owner may read."""

from __future__ import annotations

import secrets
from pathlib import Path

from ravan_edge.files import write_atomic
from ravan_edge.signing import read_token_file

__all__ = ["OPERATOR_TOKEN_NAME", "operator_token"]

OPERATOR_TOKEN_NAME = "operator.token"  # noqa: S105  (a file's name)
_BYTES = 32


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
    return read_token_file(path)
