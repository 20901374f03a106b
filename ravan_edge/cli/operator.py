"""What the commands of operators share: a connection that shows their token."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ravan_edge.device import ServerConnection
from ravan_edge.errors import UsageError
from ravan_edge.files import storage_errors

__all__ = ["CaOption", "ServerOption", "TokenFileOption", "operator_connection", "read_token"]

_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,200}")
_MOST_BYTES = 1000

ServerOption = Annotated[
    str, typer.Option("--server", help="Its address, as `ravan serve` prints it.")
]
CaOption = Annotated[
    Path | None,
    typer.Option("--ca", help="PEM file of an authority that is trusted besides the system's."),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        envvar="RAVAN_TOKEN_FILE",
        help="File with the operators' token, where the server asks for it.",
    ),
]


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
            hint="copy it whole, as the server or its operator gave it",
        )
    return text


def operator_connection(server: str, token_file: Path | None, ca: Path | None) -> ServerConnection:
    """A connection of an operator's.

    Raises:
        UsageError: The address or the token is none.
        StorageError: The token cannot be read.
    """
    if token_file is None:
        return ServerConnection(server, ca=ca)
    with storage_errors(token_file, "read the token"), token_file.open("rb") as file:
        content = file.read(_MOST_BYTES)
    return ServerConnection(server, ca=ca, token=read_token(content, str(token_file)))
