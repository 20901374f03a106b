"""``ravan status``: where a server's rounds stand."""

from __future__ import annotations

import typer

from ravan_edge.cli.common import JsonOption, print_json
from ravan_edge.cli.operator import CaOption, ServerOption, TokenFileOption, operator_connection

__all__ = ["status"]


def status(
    server: ServerOption,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where a server's rounds stand.

    Examples:
      ravan status --server http://127.0.0.1:8750
      ravan status --server http://127.0.0.1:8750 --json | jq .version
    """
    with operator_connection(server, token_file, ca) as connection:
        found = connection.status()
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    attempt = "" if found.attempt == 1 else f", attempt {found.attempt}"
    typer.echo(f"state     {found.state}{', asynchronous' if found.mode == 'async' else ''}")
    typer.echo(f"round     {found.round} of {found.rounds}{attempt}")
    typer.echo(f"version   {found.version} ({found.heads[:12]})")
    typer.echo(f"updates   {found.accepted} of {found.goal} stored, {found.training} on their way")
    if found.deadline_seconds is not None:
        typer.echo(f"deadline  in {found.deadline_seconds:,.0f} s")
    typer.echo(f"devices   {found.devices}")
    if found.failed_attempts:
        typer.echo(f"failed    {found.failed_attempts} attempts")
