"""``ravan heads``: the versions that a server has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ravan_edge.cli.common import JsonOption, print_json
from ravan_edge.cli.inspect import plain
from ravan_edge.cli.operator import CaOption, ServerOption, TokenFileOption, operator_connection
from ravan_edge.errors import StorageError, UsageError
from ravan_edge.memory import format_bytes
from ravan_edge.protocol import VersionInfo

__all__ = ["heads"]

heads = typer.Typer(
    help="List, download or go back to versions of the heads that a server has.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)

VersionArgument = Annotated[int, typer.Argument(min=0, help="Its number.")]


@heads.command("list")
def list_versions(
    server: ServerOption,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all versions, the latest first.

    Kept: heads that too few devices trained for the server's merge, so that they have the value of before.

    Examples:
      ravan heads list --server http://127.0.0.1:8750
    """
    with operator_connection(server, token_file, ca) as connection:
        found = connection.versions()
    if as_json:
        print_json({"versions": [each.model_dump(mode="json") for each in found]})
        return
    table, left = Table(box=None, pad_edge=False), {"made at (UTC)", "from"}
    for name in ("version", "made at (UTC)", "from", "bytes", "accuracy", "loss", "kept"):
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    for each in found:
        scores = each.scores or {}
        table.add_row(
            str(each.version),
            plain(each.made_at).removesuffix("+00:00").replace("T", " "),
            _origin(each),
            format_bytes(each.bytes) if each.available else "deleted",
            _figure(scores.get("accuracy"), ".2%"),
            _figure(scores.get("loss"), ".4f"),
            "" if each.heads_kept is None else str(each.heads_kept),
        )
    Console().print(table)


@heads.command("get")
def get(
    version: VersionArgument,
    server: ServerOption,
    out: Annotated[Path, typer.Option("--out", help="Where to save the heads.")],
    token_file: TokenFileOption = None,
    ca: CaOption = None,
) -> None:
    """Download the heads of a version, for `ravan eval`, `predict` or `merge`.

    Examples:
      ravan heads get 12 --server http://127.0.0.1:8750 --out heads.safetensors
    """
    if out.is_dir():
        raise UsageError("is a folder", where="--out", hint="name a file in it")
    if not out.parent.is_dir():
        raise StorageError(
            "there is no such folder", where=str(out.parent), hint=f"mkdir -p {out.parent}"
        )
    with operator_connection(server, token_file, ca) as connection:
        found = next((each for each in connection.versions() if each.version == version), None)
        if found is None or not found.available:
            raise UsageError(
                f"the server does not have version {version}",
                hint=f"ravan heads list --server {server} shows what it has",
            )
        connection.download(found.heads, out, found.bytes)
    typer.echo(f"saved version {version} ({found.bytes:,} bytes) to {out}")


@heads.command("rollback")
def rollback(
    version: VersionArgument,
    server: ServerOption,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an older version's heads the latest again, as a new version.

    The round that is running ends, and begins again from these heads.

    Examples:
      ravan heads rollback 12 --server http://127.0.0.1:8750
    """
    with operator_connection(server, token_file, ca) as connection:
        found = connection.roll_back(version)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    typer.echo(f"version {found.version} has the heads of version {version}")


def _origin(version: VersionInfo) -> str:
    if version.copy_of is not None:
        return f"version {version.copy_of}"
    return f"{version.updates} updates" if version.updates else "the artifact"


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
