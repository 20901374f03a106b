"""``ravan keys``: the keys with which artifacts are signed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ravan_edge.cli.common import JsonOption, print_json
from ravan_edge.errors import UsageError

__all__ = ["ask_password", "keys"]

keys = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich")


@keys.callback()
def root() -> None:
    """Make keys for signing artifacts, and show their ids."""


@keys.command("create")
def create(
    out: Annotated[Path, typer.Option("--out", help="Name of both files, without .key and .pub.")],
    as_json: JsonOption = False,
) -> None:
    """Make a key: NAME.key, which signs and is for nobody else, and NAME.pub, which checks.

    Nothing is overwritten. `openssl pkey -in NAME.key -aes256 -out FILE` puts a password on it.

    Examples:
      ravan keys create --out release
    """
    from ravan_edge.signing import key_id, make_private_key, write_public_key

    private, public = (out.with_name(f"{out.name}.{end}") for end in ("key", "pub"))
    if public.exists():
        raise UsageError("there is a file already", where=str(public), hint="choose another --out")
    if not out.parent.is_dir():
        raise UsageError("there is no such folder", where=str(out.parent), hint="make it first")
    key = make_private_key(private).public_key()
    write_public_key(public, key)
    if as_json:
        print_json({"key": key_id(key), "private": str(private), "public": str(public)})
        return
    typer.echo(f"key      {key_id(key)}")
    typer.echo(f"private  {private}: signs; give it to nobody, and keep a copy where it is safe")
    typer.echo(f"public   {public}: devices are given it with --trust")


@keys.command("show")
def show(
    file: Annotated[Path, typer.Argument(help="A public or a private key, PEM.")],
    as_json: JsonOption = False,
) -> None:
    """Show the id of a key: the sha256 of its 32 public bytes.

    Examples:
      ravan keys show release.pub
    """
    from ravan_edge.signing import key_id, load_private_key, load_public_key

    try:
        key = load_public_key(file)
    except UsageError:
        try:
            key = load_private_key(file, ask_password(file)).public_key()
        except UsageError as error:
            if "no private key" in error.message:
                raise UsageError(
                    "neither a public nor a private key can be read",
                    where=str(file),
                    hint="expected an ed25519 key in PEM, as `ravan keys create` makes it",
                ) from None
            raise
    if as_json:
        print_json({"key": key_id(key)})
        return
    typer.echo(key_id(key))


def ask_password(file: Path) -> Callable[[], bytes | None]:
    """Asks on the terminal for the password of a key; says that there is none where there is no terminal."""

    def ask() -> bytes | None:
        if not sys.stdin.isatty():
            return None
        text: str = typer.prompt(f"password of {file}", hide_input=True, err=True)
        return text.encode()

    return ask
