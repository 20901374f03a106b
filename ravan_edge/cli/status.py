"""``ravan status``: where a server's rounds stand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ravan_edge.cli.common import JsonOption, print_json
from ravan_edge.device import ServerConnection, refusals_as_errors

__all__ = ["CaOption", "ServerOption", "status"]

ServerOption = Annotated[
    str, typer.Option("--server", help="Its address, as `ravan serve` prints it.")
]

CaOption = Annotated[
    Path | None,
    typer.Option("--ca", help="PEM file of an authority that is trusted besides the system's."),
]


def status(server: ServerOption, ca: CaOption = None, as_json: JsonOption = False) -> None:
    """Show where a server's rounds stand.

    Examples:
      ravan status --server http://127.0.0.1:8750
      ravan status --server http://127.0.0.1:8750 --json | jq .version
    """
    with refusals_as_errors(), ServerConnection(server, ca=ca) as connection:
        found = connection.status()
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    attempt = "" if found.attempt == 1 else f", attempt {found.attempt}"
    typer.echo(f"state     {found.state}")
    typer.echo(f"round     {found.round} of {found.rounds}{attempt}")
    typer.echo(f"version   {found.version} ({found.heads[:12]})")
    typer.echo(f"updates   {found.accepted} of {found.goal} stored, {found.training} on their way")
    if found.deadline_seconds is not None:
        typer.echo(f"deadline  in {found.deadline_seconds:,.0f} s")
    typer.echo(f"devices   {found.devices}")
    if found.failed_attempts:
        typer.echo(f"failed    {found.failed_attempts} attempts")
