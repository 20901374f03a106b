"""``ravan report``: the page of a run or of a sweep, made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ravan_edge.cli.common import JsonOption, print_json
from ravan_edge.errors import MissingExtraError, UsageError
from ravan_edge.simulate.report import write_report, write_sweep_report

__all__ = ["report", "report_line"]


def report(
    run: Annotated[
        Path, typer.Argument(help="A folder that `ravan simulate` or `ravan sweep` wrote.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Write the page of a run (report.html) or of a sweep (sweep.html) into its folder.

    `ravan simulate` does this at its end. It is there for runs that are still going on, for copied
    folders, and for pages in a newer look. The page is one file that opens without a network.

    Examples:
      ravan report runs/demo
      ravan report runs/sweep
    """
    if (run / "run.json").is_file():
        path = write_report(run)
    elif (run / "sweep.json").is_file():
        path = write_sweep_report(run)
    else:
        raise UsageError(
            "there is neither a run nor a finished sweep",
            where=str(run),
            hint="point to a folder that `ravan simulate` or `ravan sweep` wrote",
        )
    if as_json:
        print_json({"report": str(path)})
    else:
        typer.echo(f"Report    {path}")


def report_line(folder: Path, result: str, page: str, write: Callable[[Path], Path]) -> str:
    """Write the page of what has just finished, and say where it is.

    A missing extra costs the page, never the run. A page younger than the result is kept, so that
    repeating a finished command answers at once.

    Args:
        folder: Of the run or sweep.
        result: The file whose age counts, such as ``summary.json``.
        page: The page's name.
        write: Writes it.
    """
    path = folder / page
    if path.is_file() and path.stat().st_mtime_ns >= (folder / result).stat().st_mtime_ns:
        return f"Report    {path}"
    try:
        return f"Report    {write(folder)}"
    except MissingExtraError as error:
        return f"Report    not written: {error}"
