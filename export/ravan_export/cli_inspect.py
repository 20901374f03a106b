"""``ravan inspect`` where the exporter is installed: artifacts, and models that are not exported yet.

torch is imported when a model is looked at, not for an artifact.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ravan_edge.cli.common import JsonOption, print_json, takes_settings
from ravan_edge.cli.inspect import inspect_artifact, is_model, plain
from ravan_edge.errors import UsageError
from ravan_edge.memory import format_bytes
from ravan_export.quiet import quiet_imports
from ravan_export.settings import DEFAULT_TASK, ExportSettings, StepSize

if TYPE_CHECKING:
    from ravan_export.costs import Estimate

__all__ = ["estimate_document", "inspect"]


@takes_settings(size=StepSize, settings=ExportSettings)
def inspect(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="ARTIFACT|MODEL",
            help="An artifact's folder; or a model that is not exported yet: its folder, its "
            "config.json, or with --task a hub id, whose weights are not fetched.",
        ),
    ],
    settings: ExportSettings,
    size: StepSize,
    task: Annotated[
        str | None,
        typer.Option("--task", help=f"Of a model: what it would learn. Default: {DEFAULT_TASK}."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            help="Of a model: as for an export. Default: as many as config.json says.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what an artifact is and what it costs to send, or what a model would cost.

    Everything in an artifact is checked first, as a device does before it runs it. Of a model only
    the configuration is read: the same graphs are built as for an export, without any weights, and
    the memory of a step follows from the sizes of its tensors. The options of an export change both.

    Examples:
      ravan inspect runs/demo/artifact
      ravan inspect runs/demo/artifact --json | jq .uploads
      ravan inspect HuggingFaceTB/SmolLM2-135M --task causal-lm --batch 1 --length 256
    """
    path = Path(subject)
    if not is_model(path) and (path.exists() or task is None):
        if (task, labels, settings, size) != (None, None, ExportSettings(), StepSize()):
            raise UsageError(
                "is no model's folder (no config.json), and options of an export are for models",
                where=subject,
                hint="leave them out; for a model on the hub type --task",
            )
        inspect_artifact(path, as_json=as_json)
        return
    quiet_imports()
    from ravan_export.costs import estimate

    found = estimate(
        subject,
        task or DEFAULT_TASK,
        labels,
        options=settings,
        batch=size.batch,
        length=size.length,
    )
    if as_json:
        print_json(estimate_document(found))
    else:
        _show(found, Console())


def estimate_document(found: Estimate) -> dict[str, Any]:
    """The estimate as a JSON document; keys are the names of its fields."""
    document = asdict(found)
    document["model"] = found.model.model_dump(mode="json")
    for key in ("layers", "tensors"):
        document[key] = [item.model_dump(mode="json") for item in getattr(found, key)]
    return document


def _show(found: Estimate, console: Console) -> None:
    model = found.model
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    task = found.task if not found.labels else f"{found.task}, {found.labels} labels"
    for key, value in (
        ("Model", f"{model.name} ({model.architecture}, family {model.family}), not exported"),
        ("Size", f"{model.parameters:,} numbers, {format_bytes(model.bytes)}"),
        ("Task", task),
        ("Method", f"{found.method}, {len(found.layers)} layers adapted"),
        ("Trainable", f"{found.trainable:,} numbers"),
        ("Step graph", f"{found.nodes:,} nodes"),
    ):
        facts.add_row(key, plain(value))
    console.print(facts)
    costs = Table(title="What it would cost", title_justify="left")
    costs.add_column("what")
    costs.add_column("size", justify="right")
    shape = f"{found.batch} x {found.length}" if found.length else f"{found.batch} images"
    for what, count in (
        ("download once: base", found.base_bytes),
        ("of these the random bases", found.bases_bytes),
        ("download once: step graph", found.graph_bytes),
        ("download each round: heads", found.heads_bytes),
        ("upload each round, all heads", found.upload_bytes),
        (f"live tensors of a step of {shape}, at most", found.live_bytes),
        ("memory of that step with the runtime, about", found.memory_bytes),
    ):
        costs.add_row(what, format_bytes(count))
    console.print(costs)
    for notice in found.notices:
        console.print(f"Notice: {plain(notice)}")
