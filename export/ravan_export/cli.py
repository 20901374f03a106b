"""``ravan export`` and what else the exporter plugs into the command line (entry point ``ravan.commands``).

torch and transformers take seconds to import, so that happens when the command runs, not when its
help is shown.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ravan_edge.cli.common import JsonOption, say, takes_settings
from ravan_edge.errors import UsageError
from ravan_export.cli_inspect import inspect
from ravan_export.cli_merge import merge
from ravan_export.quiet import quiet_imports
from ravan_export.settings import DEFAULT_TASK, ExportSettings, Trust

if TYPE_CHECKING:
    from ravan_export.export import Exported

__all__ = ["export", "register"]


@takes_settings(settings=ExportSettings, trust=Trust)
def export(
    model: Annotated[str, typer.Argument(help="A local Hugging Face folder, or a hub id.")],
    out: Annotated[Path, typer.Option("--out", help="The artifact's folder; must not exist.")],
    settings: ExportSettings,
    trust: Trust,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            help="For tasks with labels: how many, or a file with them (.txt, .json or a data file), or "
            "a folder with one sub-folder for each class.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[str, typer.Option("--task", help="What the model learns.")] = DEFAULT_TASK,
    plans: Annotated[
        str,
        typer.Option("--plans", help="Ways to compute the step, separated by commas."),
    ] = "whole",
    name: Annotated[
        str | None,
        typer.Option("--name", help="What the manifest calls the model.", show_default=False),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an artifact that is there.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a training artifact from a pretrained model.

    Before it is given its name, the artifact runs in a fresh process without torch; loss and every
    gradient are compared with torch autograd on the original model.

    Examples:
      ravan export ./all-MiniLM-L6-v2 --labels train.parquet --out mails.ravan
      ravan export ./roberta-base --labels 4 --method fedit --lora-budget 16 --out lora.ravan
      ravan export ./SmolLM2-135M --task causal-lm --out poems.ravan
    """
    if out.exists() and not overwrite and any(out.iterdir() if out.is_dir() else [out]):
        # Said before torch is imported; the writer checks again.
        raise UsageError("is already there", where=str(out), hint="choose another --out")
    quiet_imports()
    from ravan_export.export import export_artifact

    exported = export_artifact(
        model,
        task,
        labels,
        out,
        name=name,
        plans=tuple(plans.split(",")),
        overwrite=overwrite,
        allow_pickle=trust.allow_pickle,
        trust_remote_code=trust.trust_remote_code,
        announce=lambda message: say(f"note: {message}"),
        progress=(lambda _: None) if as_json else _progress,
        method=settings.method,
        heads=settings.heads,
        rank=settings.rank,
        lora_budget=settings.lora_budget,
        init=settings.init,
        targets=settings.targets,
        seed=settings.seed,
        tokens=settings.tokens,
        loss_slices=settings.loss_slices,
        plan_rows=settings.plan_rows,
        plan_length=settings.plan_length,
    )
    if as_json:
        typer.echo(json.dumps(_document(exported), indent=2, ensure_ascii=False))
    else:
        _show(exported)


def _progress(message: str) -> None:
    # One line that is written over on a terminal, one line each in a pipe.
    if sys.stderr.isatty():
        typer.echo(f"\r\x1b[K{message} ...", err=True, nl=False)
    else:
        say(message)


def _document(exported: Exported) -> dict[str, object]:
    manifest = exported.manifest
    return {
        "artifact": str(exported.folder),
        "digest": exported.digest,
        "model": manifest.model.model_dump(mode="json"),
        "method": manifest.method.model_dump(mode="json"),
        "labels": len(manifest.labels),
        "layers": len(manifest.layers),
        "trained_numbers": sum(entry.size for entry in manifest.tensors),
        "base_bytes": manifest.files["base.safetensors"].size,
        "worst_error": _worst(exported),
        "notices": list(manifest.notices),
    }


def _worst(exported: Exported) -> float:
    stored = exported.manifest.conformance
    return max((case.worst_error for case in stored.cases), default=0.0) if stored else 0.0


def _show(exported: Exported) -> None:
    manifest = exported.manifest
    if sys.stderr.isatty():
        typer.echo("\r\x1b[K", err=True, nl=False)
    for notice in manifest.notices[:5]:
        say(f"note: {notice}")
    if len(manifest.notices) > 5:
        say(f"note: and {len(manifest.notices) - 5} more; see `ravan inspect`")
    trained = sum(entry.size for entry in manifest.tensors)
    typer.echo(
        f"{exported.folder}: {manifest.method.name}, {len(manifest.layers)} layers adapted, "
        f"{trained:,} of {manifest.model.parameters:,} numbers train; "
        f"within {_worst(exported):.1e} of torch on the original model"
    )


def register(application: typer.Typer) -> None:
    """Add the commands to an application."""
    application.command("export")(export)
    application.command("inspect")(inspect)
    application.command("merge")(merge)
