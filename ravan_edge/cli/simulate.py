"""``ravan simulate``: many devices in one machine."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ravan_edge.cli.common import JsonOption, print_json, say, takes_settings
from ravan_edge.cli.operator import CaOption, TokenFileOption
from ravan_edge.cli.report import report_line
from ravan_edge.memory import format_bytes
from ravan_edge.simulate import SimulationRequest, SimulationSettings
from ravan_edge.simulate import simulate as run_simulation
from ravan_edge.simulate.progress import RoundDisplay
from ravan_edge.simulate.report import REPORT_NAME, write_report
from ravan_edge.tasks import TASKS

__all__ = ["ArtifactArgument", "TestOption", "TrainOption", "WorkersOption", "simulate"]

ArtifactArgument = Annotated[
    Path, typer.Argument(help="An artifact's folder, made by `ravan export`.")
]
TrainOption = Annotated[
    Path,
    typer.Option(
        "--train",
        help="Training data: csv, tsv, jsonl or parquet; for images also a folder with one "
        "sub-folder for each class.",
    ),
]
TestOption = Annotated[
    Path | None, typer.Option("--test", help="Test data, scored and never used to choose anything.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="Worker processes; never changes a result. Default: one per processor.",
        show_default=False,
    ),
]


@takes_settings(settings=SimulationSettings)
def simulate(
    artifact: ArtifactArgument,
    train: TrainOption,
    out: Annotated[
        Path, typer.Option("--out", help="The run's folder; the same command resumes it.")
    ],
    settings: SimulationSettings,
    test: TestOption = None,
    workers: WorkersOption = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            help="Let a server merge, through the devices' own client; its address, as `ravan serve` "
            "prints it. Never changes a result.",
            show_default=False,
        ),
    ] = None,
    ca: CaOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the heads of an artifact with many simulated devices on this machine.

    The same command goes on after an interrupt, a kill or a full disk, and ends with the same bits.
    A finished run is shown again.

    Examples:
      ravan simulate ART --train train.csv --test test.csv --out runs/first
      ravan simulate ART --train train.csv --test test.csv --out runs/uneven
        --partition dirichlet:0.3 --per-round 3 --rounds 30 --local-steps 50 --lr 1e-3
      ravan simulate ART --train mails.csv --out runs/users --partition column:sender
        --head-budgets 1:0.25,3:0.5,4:0.25 --drop-out 0.1 --deadline-seconds 600
      ravan simulate ART --train train.csv --out runs/buffered --mode async --per-round 20
        --buffer 10 --max-staleness 20
      ravan simulate ART --train train.csv --out runs/real --per-round 3 --rounds 30 --lr 1e-3
        --server http://127.0.0.1:8750
    """
    request = SimulationRequest(artifact, train, test, out, settings, server, ca, token_file)
    with RoundDisplay() as display:
        summary = run_simulation(request, workers=workers, on_event=display)
    report = report_line(out, "summary.json", REPORT_NAME, write_report)
    if as_json:
        say(report)
        print_json(summary)
        return
    *outcome, following = outcome_lines(request, summary)
    for line in (*outcome, report, following):
        typer.echo(line)


def outcome_lines(request: SimulationRequest, summary: Mapping[str, Any]) -> Iterator[str]:
    """A finished run for a person, a line each."""
    initial, final, best = summary["initial"], summary["final"], summary["best"]
    rows = "test" if final["accuracy"] is not None else "validation"
    key = "accuracy" if rows == "test" else "validation_accuracy"
    if final[key] is not None:
        text = f"Accuracy  {initial[key]:.1%} before, {final[key]:.1%} after on the {rows} rows"
        if best is not None:
            text += f"; round {best['round']}, the best by validation: {best[key]:.1%}"
        yield text
    perplexity = key.replace("accuracy", "perplexity")
    if final.get(perplexity) is not None:
        yield f"Words     perplexity {initial[perplexity]:,.1f} before, {final[perplexity]:,.1f} after"
    upload, model = summary["upload_bytes_per_update"], summary["model_bytes"]
    yield (
        f"Sent      {format_bytes(upload)} up and "
        f"{format_bytes(summary['download_bytes_per_round'])} down per device and round, "
        f"{format_bytes(summary['download_bytes_once'])} down once"
    )
    yield (
        f"          (the whole model is {format_bytes(model)}: "
        f"{model / upload:,.1f} times an update)"
    )
    devices = summary["devices"]
    names = ("late", "dropped_out", "bad_numbers", "crashed", "stale")
    missing = {name: devices.get(name, 0) for name in names}
    if any(missing.values()):
        yield "Left out  " + ", ".join(
            f"{count} {name.replace('_', ' ')}" for name, count in missing.items() if count
        )
    if devices["count"] > devices["with_data"]:
        yield (
            f"Devices   {devices['count'] - devices['with_data']} of {devices['count']} have no "
            "data and never took part"
        )
    if summary["peak_memory_bytes"]:
        yield f"Memory    {format_bytes(summary['peak_memory_bytes'])} at most in a worker"
    yield (
        f"Time      {summary['seconds']:,.1f} s; the devices would have taken "
        f"{summary['simulated_seconds']:,.1f} s"
    )
    yield f"Folder    {request.out} (summary.json, metrics.jsonl, heads/)"
    heads = request.out / "heads" / ("last" if best is None else "best")
    yield f"Next      {_next_command(request, summary, f'{heads}.safetensors')}"


def _next_command(request: SimulationRequest, summary: Mapping[str, Any], heads: str) -> str:
    """What puts the heads to work: a prediction, or a model that generates where none is made."""
    task, artifact = summary["artifact"]["task"], str(request.artifact)
    if TASKS[task].perplexity:
        return shlex.join(
            ["ravan", "merge", artifact, "--heads", heads, "--to", "hf", "--out", "merged"]
        )
    item = "photo.png" if task == "image-classification" else "a text"
    return shlex.join(["ravan", "predict", artifact, "--heads", heads, item])
