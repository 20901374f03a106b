"""What the commands of operators share: a connection that shows their token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ravan_edge.device import ServerConnection, refusals_as_errors
from ravan_edge.signing import read_token_file

__all__ = ["CaOption", "ServerOption", "TokenFileOption", "operator_connection"]


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


@contextmanager
def operator_connection(
    server: str, token_file: Path | None, ca: Path | None
) -> Iterator[ServerConnection]:
    """A connection of an operator's; what the server refuses ends the command.

    Raises:
        UsageError: The address or the token is none.
        StorageError: The token or the file of authorities cannot be read.
        ServerRefusedError: The server refuses.
        NetworkError: It cannot now.
    """
    token = None if token_file is None else read_token_file(token_file)
    with refusals_as_errors(), ServerConnection(server, ca=ca, token=token) as connection:
        yield connection
