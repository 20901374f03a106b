"""``ravan devices``: who may take part, for operators."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ravan_edge.cli.common import JsonOption, print_json, say
from ravan_edge.cli.inspect import plain
from ravan_edge.cli.operator import CaOption, ServerOption, TokenFileOption, operator_connection
from ravan_edge.errors import UsageError
from ravan_edge.files import write_atomic
from ravan_edge.protocol import DeviceInfo, InviteDevices

__all__ = ["devices"]

_DAY_SECONDS = 86_400.0

devices = typer.Typer(
    help="Invite devices to a server that takes only enrolled ones, list them, shut them out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)


@devices.command("invite")
def invite(
    server: ServerOption,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    uses: Annotated[
        int, typer.Option("--uses", min=1, max=1_000_000, help="Devices that may use it.")
    ] = 1,
    days: Annotated[
        float, typer.Option("--days", min=0.001, max=366, help="Days for which it is good.")
    ] = 7,
    note: Annotated[
        str, typer.Option("--note", help="For the list of invitations: whom it is for.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the token to this file, not to stdout.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token with which devices can enrol. It is shown this once.

    Examples:
      ravan devices invite --server https://ravan.example --token-file operator.token --uses 20
      ravan devices invite --server https://ravan.example --out token && ravan device enrol
        --server https://ravan.example --token-file token --state runs/device
    """
    if len(note) > 100:
        raise UsageError(
            f"{len(note)} characters, at most 100 are kept", where="--note", hint="shorten it"
        )
    if out is not None and out.exists():
        raise UsageError("there is a file already", where=str(out), hint="choose another name")
    asked = InviteDevices(uses=uses, valid_seconds=days * _DAY_SECONDS, note=note)
    with operator_connection(server, token_file, ca) as connection:
        found = connection.invite(asked)
    if out is not None:
        write_atomic(out, [found.token.encode(), b"\n"], private=True)
    if as_json:
        document = found.model_dump(mode="json")
        if out is not None:
            document["token"] = None
        print_json(document)
        return
    if out is None:
        typer.echo(found.token)
    info = found.info
    say(f"invitation {info.invitation}: for {info.uses} devices, until {info.expires_at}")


@devices.command("list")
def list_devices(
    server: ServerOption,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all enrolled devices, in the order in which they came.

    Examples:
      ravan devices list --server https://ravan.example --token-file operator.token
    """
    found: list[DeviceInfo] = []
    with operator_connection(server, token_file, ca) as connection:
        after: int | None = 0
        while after is not None:
            page = connection.devices(after)
            found += page.devices
            # Whatever a server answers, this ends: entries go up.
            after = page.after if page.devices and page.after == page.devices[-1].entry else None
    if as_json:
        print_json({"devices": [each.model_dump(mode="json") for each in found]})
        return
    table = _table("device", "invitation", "enrolled at", "shut out since")
    for each in found:
        table.add_row(
            each.device,
            str(each.invitation),
            _minute(each.enrolled_at),
            _minute(each.revoked_at or ""),
        )
    Console().print(table)


@devices.command("invitations")
def list_invitations(
    server: ServerOption,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the latest invitations. Their tokens are not kept.

    Examples:
      ravan devices invitations --server https://ravan.example --token-file operator.token
    """
    with operator_connection(server, token_file, ca) as connection:
        found = connection.invitations()
    if as_json:
        print_json({"invitations": [each.model_dump(mode="json") for each in found]})
        return
    table = _table("invitation", "used", "made at", "expires at", "note")
    for each in found:
        table.add_row(
            str(each.invitation),
            f"{each.used} of {each.uses}",
            _minute(each.made_at),
            _minute(each.expires_at),
            plain(each.note),
        )
    Console().print(table)


@devices.command("revoke")
def revoke(
    device: Annotated[str, typer.Argument(help="Its id, as `ravan devices list` shows it.")],
    server: ServerOption,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Shut a device out: no more tasks, and what it sent to the open round is not merged.

    What it sent to earlier versions stays in them: `ravan heads rollback` goes back behind those.

    Examples:
      ravan devices revoke 56475aa75463474c0285df5dbf2bcab7 --server https://ravan.example
    """
    if len(device) != 32 or set(device) - set("0123456789abcdef"):
        raise UsageError(
            f"{device[:80]!r} is no device's id",
            where="DEVICE",
            hint="it has 32 hexadecimal digits: `ravan devices list` shows it",
        )
    with operator_connection(server, token_file, ca) as connection:
        found = connection.revoke(device)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    typer.echo(f"device {plain(found.device)} is shut out since {_minute(found.revoked_at or '')}")


def _minute(moment: str) -> str:
    """UTC, short enough for a line of 80 characters beside an id."""
    return plain(moment[:16].replace("T", " "))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True)
    return table
