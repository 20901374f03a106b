"""``ravan serve``: the aggregator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ravan_edge.artifact import open_artifact
from ravan_edge.cli.common import DataSettings, takes_settings
from ravan_edge.errors import DataError
from ravan_edge.training.options import option_infos, option_name
from ravan_server.events import configure_logs
from ravan_server.settings import RoundSettings, ServerSettings

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``ravan``."""
    app.command("serve")(serve)


@takes_settings(rounds=RoundSettings, settings=ServerSettings, reading=DataSettings)
def serve(
    artifact: Annotated[Path, typer.Argument(help="An artifact's folder, made by `ravan export`.")],
    state: Annotated[
        Path,
        typer.Option("--state", help="The server's folder; the same command goes on with it."),
    ],
    rounds: RoundSettings,
    settings: ServerSettings,
    reading: DataSettings,
    test: Annotated[
        Path | None,
        typer.Option("--test", help="Rows on which every version is scored, in another process."),
    ] = None,
) -> None:
    """Hand out tasks to devices, and merge what they send.

    After a kill the same command goes on, and no update that was acknowledged is lost.

    Examples:
      ravan serve runs/demo/artifact --state runs/server
      ravan serve ART --state runs/server --goal 20 --rounds 100 --local-steps 50 --lr 1e-3
      ravan serve ART --state runs/server --mode async --goal 100 --buffer 20
      ravan serve ART --state runs/server --test test.csv
      ravan serve ART --state runs/server --tls-certificate chain.pem --tls-key key.pem
    """
    from ravan_server.serving import serve as run_server

    configure_logs(settings.log_format)
    run_server(
        open_artifact(artifact),
        state,
        rounds,
        settings,
        [] if test is None else _evaluation(test, reading),
        lambda address: typer.echo(f"listening on {address}"),
    )


def _evaluation(test: Path, reading: DataSettings) -> list[str]:
    """The options of ``ravan eval`` for these rows."""
    if not test.exists():
        raise DataError("no such file", where=str(test), hint="check the path")
    words = ["--data", str(test)]
    for item, _ in option_infos(DataSettings):
        value = getattr(reading, item.name)
        if value != item.default:
            words.append(option_name(item.name))
            words += [] if value is True else [str(value)]
    return words
