"""``ravan sign``: the signature of an artifact."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ravan_edge.artifact.opening import SIGNATURE_NAME, open_artifact
from ravan_edge.cli.common import JsonOption, print_json, takes_settings
from ravan_edge.cli.keys import ask_password
from ravan_edge.errors import UsageError
from ravan_edge.training.options import check_options, option

__all__ = ["SignSettings", "sign"]


@dataclass(frozen=True)
class SignSettings:
    """What a signature says besides which artifact it is of."""

    name: str | None = option(
        None,
        "Of the line of artifacts that this is one of: letters, digits and . _ -, at most 64. "
        "Default: the model's name.",
    )
    sequence: int | None = option(
        None,
        "Its number in that line; devices never go back to a lower one. Default: one more than the "
        "signature that is there says, else 1.",
        minimum=1,
        maximum=(1 << 53) - 1,
    )
    days: int = option(
        365, "How long it counts: devices refuse it afterwards.", minimum=1, maximum=3650
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.name):
            raise UsageError(
                f"{self.name[:80]!r} is no name of a line of artifacts",
                where="--name",
                hint="use letters, digits and . _ -, at most 64",
            )


@takes_settings(settings=SignSettings)
def sign(
    artifact: Annotated[Path, typer.Argument(help="The artifact's folder.")],
    key: Annotated[
        Path, typer.Option("--key", help="The private key, PEM: `ravan keys create` makes one.")
    ],
    settings: SignSettings,
    as_json: JsonOption = False,
) -> None:
    """Sign an artifact: signature.json beside its manifest, also in place of one that is there.

    Everything in the artifact is checked first. A new artifact of a line has no signature yet: say
    --sequence, greater than the last one's.

    Examples:
      ravan sign runs/demo/artifact --key release.key
      ravan sign mails --key release.key --name mails --sequence 8 --days 90
    """
    from ravan_edge.signing import default_name, load_private_key, sign_artifact

    opened = open_artifact(artifact)
    signed = sign_artifact(
        opened,
        load_private_key(key, ask_password(key)),
        name=default_name(opened) if settings.name is None else settings.name,
        sequence=settings.sequence,
        days=settings.days,
        now=time.time(),
    )
    if as_json:
        print_json({"file": str(artifact / SIGNATURE_NAME), **signed.document()})
        return
    typer.echo(f"signed {signed}")
