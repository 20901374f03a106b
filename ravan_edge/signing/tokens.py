"""Tokens: secrets that are shown instead of a signature. They come from files, never from options."""

from __future__ import annotations

import re
from pathlib import Path

from ravan_edge.errors import UsageError
from ravan_edge.files import storage_errors

__all__ = ["MOST_TOKEN_BYTES", "read_token", "read_token_file"]

MOST_TOKEN_BYTES = 1000
"""Of what is read to find one."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,200}")


def read_token(content: bytes, where: str) -> str:
    """The token that a file or a person gave.

    A token is never an option's value: whoever lists the processes of a machine would see it.

    Args:
        content: The token, with white space around it or not.
        where: For the message.

    Raises:
        UsageError: It is none.
    """
    text = content.decode("ascii", "replace").strip()
    if not _TOKEN.fullmatch(text):
        raise UsageError(
            "this is no token: expected 22 to 200 letters, digits, - and _",
            where=where,
            hint="copy it whole, as the server or its operator gave it; operators make one with "
            "openssl rand -hex 32",
        )
    return text


def read_token_file(path: Path) -> str:
    """The token in a file.

    Raises:
        UsageError: It holds none.
        StorageError: It cannot be read.
    """
    with storage_errors(path, "read the token"), path.open("rb") as file:
        content = file.read(MOST_TOKEN_BYTES)
    return read_token(content, str(path))
