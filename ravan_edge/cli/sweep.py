"""``ravan sweep``: simulations over learning rates and seeds; validation chooses."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ravan_edge.cli.common import JsonOption, print_json, say, takes_settings
from ravan_edge.cli.report import report_line
from ravan_edge.cli.simulate import ArtifactArgument, TestOption, TrainOption, WorkersOption
from ravan_edge.errors import UsageError
from ravan_edge.simulate import SimulationRequest, SimulationSettings
from ravan_edge.simulate import sweep as run_sweep
from ravan_edge.simulate.progress import RoundDisplay
from ravan_edge.simulate.report import SWEEP_REPORT_NAME, write_sweep_report

__all__ = ["sweep"]

_COLUMNS = ("lr", "task head lr", "validation", "test", "runs", "")


def _without_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Take options away that the command has lists for; their fields keep their defaults."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        defaults = {name: signature.parameters[name].default for name in names}
        kept = [item for name, item in signature.parameters.items() if name not in names]

        @functools.wraps(command)
        def with_defaults(**values: Any) -> None:  # noqa: ANN401  (options have many types)
            command(**values, **defaults)

        # The command line is made from these two.
        with_defaults.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        with_defaults.__annotations__ = {item.name: item.annotation for item in kept}
        return with_defaults

    return decorate


@_without_options("lr", "task_head_lr")
@takes_settings(settings=SimulationSettings)
def sweep(
    artifact: ArtifactArgument,
    train: TrainOption,
    out: Annotated[
        Path, typer.Option("--out", help="The sweep's folder; the same command resumes it.")
    ],
    rates: Annotated[str, typer.Option("--lr", help="Learning rates, such as 1e-4,5e-4,1e-3.")],
    settings: SimulationSettings,
    test: TestOption = None,
    task_head_rates: Annotated[
        str | None,
        typer.Option(
            "--task-head-lr",
            help="Learning rates of the task head, each with each --lr. Default: as --lr.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", help="Seeds, such as 0,1,2. Default: --seed.", show_default=False),
    ] = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate every learning rate with every seed and choose by validation accuracy.

    Each run has its own folder below --out. Finished ones are not repeated, so the same command
    resumes a sweep, and further rates extend it.

    Examples:
      ravan sweep ART --train train.csv --test test.csv --out runs/sweep --lr 1e-4,5e-4,1e-3
      ravan sweep ART --train train.csv --out runs/sweep --lr 5e-4,1e-3 --seeds 0,1,2
        --partition dirichlet:0.3 --rounds 20
    """
    base = SimulationRequest(artifact, train, test, out, settings)
    with RoundDisplay() as display:
        found = run_sweep(
            base,
            _numbers(rates, "--lr", float),
            task_head_rates=_numbers(task_head_rates, "--task-head-lr", float),
            seeds=_numbers(seeds, "--seeds", int),
            workers=workers,
            on_event=display,
        )
    report = report_line(out, "sweep.json", SWEEP_REPORT_NAME, write_sweep_report)
    if as_json:
        say(report)
        print_json(found)
    else:
        _show(found, out)
        typer.echo(report)


Number = TypeVar("Number", int, float)


def _numbers(text: str | None, option: str, kind: Callable[[str], Number]) -> list[Number]:
    """The numbers of a list with commas."""
    try:
        return [kind(part) for part in text.split(",")] if text else []
    except ValueError:
        raise UsageError(
            f"{text!r} is not a list of numbers", where=option, hint="write them with commas: 1,2,3"
        ) from None


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for row in found["rows"]:
        notes = []
        if (
            row["lr"] == found["best"]["lr"]
            and row["task_head_lr"] == found["best"]["task_head_lr"]
        ):
            notes.append("chosen")
        if row["failed"]:
            notes.append(f"{row['failed']} diverged")
        yield (
            f"{row['lr']:g}",
            "as lr" if row["task_head_lr"] is None else f"{row['task_head_lr']:g}",
            _share(row, "validation_accuracy"),
            _share(row, "accuracy"),
            str(len(row["runs"])),
            ", ".join(notes),
        )


def _share(row: Mapping[str, Any], key: str) -> str:
    if row[key] is None:
        return "-"
    text = f"{row[key]:.1%}"
    return f"{text} ± {row[f'{key}_deviation']:.1%}" if len(row["runs"]) > 1 else text


def _show(found: Mapping[str, Any], out: Path) -> None:
    rows = list(_rows(found))
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(title="Accuracy, mean over the last evaluated rounds", title_justify="left")
        for column in _COLUMNS:
            table.add_column(column, justify="right" if column else "left")
        for row in rows:
            table.add_row(*row, style="bold" if "chosen" in row[-1] else None)
        Console().print(table)
    else:
        for row in (_COLUMNS, *rows):
            typer.echo("\t".join(row).rstrip())
    typer.echo(f"Folder    {out} (sweep.json, a folder for each run)")
    typer.echo(f"Next      {found['command']}")
