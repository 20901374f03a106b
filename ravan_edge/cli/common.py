"""What commands share: options made from settings classes, output for people and for machines."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from ravan_edge.plans.step import RuntimeSettings
from ravan_edge.tasks import LENGTH_HELP
from ravan_edge.training.options import (
    OptionInfo,
    check_options,
    option,
    option_infos,
    option_name,
)

__all__ = [
    "DataSettings",
    "JsonOption",
    "PlanSettings",
    "Reporter",
    "print_json",
    "say",
    "takes_settings",
]

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")
]

Command = TypeVar("Command", bound=Callable[..., None])


@dataclass(frozen=True)
class DataSettings:
    """How a data file is read, for commands that read one."""

    text_column: str | None = option(
        None, "Column of the texts (or images). Default: found by its usual names.", group="Data"
    )
    label_column: str | None = option(
        None, "Column of the labels. Default: found by its usual names.", group="Data"
    )
    skip_empty: bool = option(False, "Leave out rows with an empty text.", group="Data")
    max_length: int | None = option(None, LENGTH_HELP, minimum=1, maximum=1 << 20, group="Data")

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class PlanSettings:
    """Which plan computes, and how it may use this machine."""

    plan: str = option("whole", "The artifact's plan that computes.", group="Runtime")
    threads: int = option(
        RuntimeSettings.threads,
        "Threads inside one step; another number can change the last bits of a result.",
        minimum=1,
        maximum=1024,
        group="Runtime",
    )
    arena: bool = option(
        RuntimeSettings.arena,
        "Keep freed memory for the next step: faster, and the peak is a little higher.",
        group="Runtime",
    )
    bfloat16_products: bool = option(
        RuntimeSettings.bfloat16_products,
        "On ARM: compute products in bfloat16, faster and not exact.",
        group="Runtime",
    )

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def runtime(self) -> RuntimeSettings:
        """For :func:`ravan_edge.plans.open_step`."""
        return RuntimeSettings(
            threads=self.threads, arena=self.arena, bfloat16_products=self.bfloat16_products
        )


def takes_settings(**classes: type[Any]) -> Callable[[Command], Command]:
    """Replace parameters of a command by the options of their settings classes.

    ``@takes_settings(local=LocalSettings)`` gives the command one option per field of the class and
    calls it with ``local`` built from them. Fields that are settings classes themselves are
    flattened. Names, defaults, help and headings come from :func:`ravan_edge.training.option`.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in signature.parameters.items()
            if name not in classes
        ]
        for kind in classes.values():
            parameters += _parameters(kind)

        @functools.wraps(command)
        def with_options(**values: Any) -> None:  # noqa: ANN401  (options have many types)
            settings = {name: _build(kind, values) for name, kind in classes.items()}
            command(**values, **settings)

        # The command line is made from these two; the wrapped command's own would win otherwise.
        with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {item.name: item.annotation for item in parameters}
        return with_options  # type: ignore[return-value]

    return decorate


def _nested(kind: type[Any]) -> Iterator[tuple[str, type[Any]]]:
    hints = get_type_hints(kind)
    for item in fields(kind):
        if is_dataclass(hints[item.name]):
            yield item.name, hints[item.name]


def _parameters(kind: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(kind)
    made = [
        inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=item.default,
            annotation=Annotated[hints[item.name], _option(item.name, item.default, info)],
        )
        for item, info in option_infos(kind)
    ]
    for _, inner in _nested(kind):
        made += _parameters(inner)
    return made


def _option(name: str, default: object, info: OptionInfo) -> Any:  # noqa: ANN401  (typer's own)
    words = option_name(name)
    if default is True:
        words = f"{words}/--no-{words.removeprefix('--')}"
    return typer.Option(
        words, help=info.help, rich_help_panel=info.group, show_default=default is not None
    )


def _build(kind: type[Any], values: dict[str, Any]) -> Any:  # noqa: ANN401  (an instance of kind)
    """An instance of the class; its values are taken out of ``values``."""
    inner = {name: _build(nested, values) for name, nested in _nested(kind)}
    own = {item.name: values.pop(item.name) for item, _ in option_infos(kind)}
    return kind(**own, **inner)


def print_json(document: Mapping[str, Any]) -> None:
    """The one JSON document of ``--json``, on stdout. NaN and infinity are refused: no JSON has them."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def say(text: str = "") -> None:
    """A line for people, on stderr: stdout is for results."""
    typer.echo(text, err=True)


class Reporter:
    """Progress on stderr: a bar on a terminal, nothing in a pipe.

    Args:
        quiet: Show nothing at all.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.shown = not quiet and sys.stderr.isatty()

    @contextmanager
    def bar(
        self, what: str, kind: Literal["rows", "steps"] = "rows"
    ) -> Iterator[Callable[[int, int, str], None]]:
        """A bar; what comes back takes (done, total, note)."""
        if not self.shown:
            yield lambda _done, _total, _note: None
            return
        # rich takes a while to import, and pipes never need it
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(kind),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(what, total=None, note="")

            def update(done: int, total: int, note: str) -> None:
                progress.update(task, completed=done, total=total, note=note)

            yield update
