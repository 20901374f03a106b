"""``ravan inspect``: what an artifact is and what it costs to send."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ravan_edge.artifact.opening import MANIFEST_NAME, open_artifact
from ravan_edge.artifact.summary import ArtifactSummary, describe
from ravan_edge.errors import MissingExtraError
from ravan_edge.plans.registry import PLANS
from ravan_edge.signing import SignedStatement, signature_of

__all__ = [
    "inspect",
    "inspect_artifact",
    "is_model",
    "plain",
    "show",
    "signature_text",
    "summary_document",
]

_SHOWN_LABELS = 8


def inspect(
    artifact: Annotated[Path, typer.Argument(help="An artifact's folder, made by `ravan export`.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout.")
    ] = False,
) -> None:
    """Show what an artifact is: model, method, what trains, bytes to download and to upload.

    Everything in it is checked first, as a device does before it runs it, its signature too.

    Examples:
      ravan inspect runs/demo/artifact
      ravan inspect runs/demo/artifact --json | jq .uploads
    """
    if is_model(artifact):
        raise MissingExtraError(
            "is a model that is not exported yet: what it would cost takes the exporter to say",
            where=str(artifact),
            hint="pip install 'ravan-edge[export]'",
        )
    inspect_artifact(artifact, as_json=as_json)


def is_model(path: Path) -> bool:
    """Whether a path is a pretrained model's folder, or its config.json, and not an artifact."""
    if path.name == "config.json" and path.is_file():
        return True
    return (path / "config.json").is_file() and not (path / MANIFEST_NAME).is_file()


def inspect_artifact(artifact: Path, *, as_json: bool) -> None:
    """Check an artifact, then print its summary.

    Raises:
        ArtifactError: It is refused, or not there.
    """
    opened = open_artifact(artifact)
    summary, signed = describe(opened), signature_of(opened)
    if as_json:
        document = summary_document(summary)
        document["signature"] = None if signed is None else signed.document()
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        console = Console()
        show(summary, console)
        console.print(f"Signature: {plain(signature_text(signed, time.time()))}")


def signature_text(signed: SignedStatement | None, now: float) -> str:
    """Whether an artifact is signed, by whom and how long, for a person.

    Args:
        signed: Found good; None: there is no signature.
        now: Seconds since 1970.
    """
    if signed is None:
        return "none"
    return f"{signed} (EXPIRED)" if signed.expired(now) else str(signed)


def summary_document(summary: ArtifactSummary) -> dict[str, object]:
    """The summary as a JSON document; keys are the names of the summary's fields.

    Each plan also says which runtime computes it and what it cannot do.
    """
    document = asdict(summary)
    for name, plan in document["plans"].items():
        if name in PLANS:
            plan |= {"runtime": PLANS[name].runtime, "cannot": list(PLANS[name].cannot)}
    document["conformance"] = [case.model_dump(mode="json") for case in summary.conformance]
    return document


def show(summary: ArtifactSummary, console: Console) -> None:
    """Print the summary for a person."""
    _show_facts(summary, console)
    _show_layers(summary, console)
    _show_bytes(summary, console)
    _show_plans(summary, console)
    if summary.conformance_tolerance is not None:
        worst = max((case.worst_error for case in summary.conformance), default=0.0)
        console.print(
            f"Conformance: {len(summary.conformance)} stored case(s), gradients within "
            f"{worst:.1e} of the original model's (allowed: {summary.conformance_tolerance:.1e})"
        )
    for notice in summary.notices:
        console.print(f"Notice: {plain(notice)}")


def _show_facts(summary: ArtifactSummary, console: Console) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    labels = ", ".join(summary.labels[:_SHOWN_LABELS])
    if len(summary.labels) > _SHOWN_LABELS:
        labels += ", ..."
    settings = ", ".join(f"{key} {value}" for key, value in summary.settings.items())
    trainable = ", ".join(
        f"{role} {number:,}" for role, number in summary.trainable.items() if role != "total"
    )
    for key, value in (
        ("Model", f"{summary.model} ({summary.architecture}, family {summary.family})"),
        ("Licence", summary.license or "not stated"),
        ("Size", f"{summary.model_parameters:,} numbers, {_size(summary.model_bytes)}"),
        ("Task", summary.task),
        ("Labels", f"{len(summary.labels)}: {labels}"),
        ("Method", f"{summary.method} ({settings})"),
        ("Trainable", f"{summary.trainable['total']:,} numbers ({trainable})"),
        ("Digest", summary.digest),
    ):
        table.add_row(key, plain(value))
    console.print(table)


def _show_layers(summary: ArtifactSummary, console: Console) -> None:
    if not summary.layers:
        return
    table = Table(title=f"{len(summary.layers)} adapted layers", title_justify="left")
    table.add_column("layer", overflow="fold")
    for column in ("outputs", "inputs", "heads", "rank"):
        table.add_column(column, justify="right")
    for layer in summary.layers:
        table.add_row(
            plain(layer.name),
            *(f"{number:,}" for number in (layer.outputs, layer.inputs, layer.heads, layer.rank)),
        )
    console.print(table)


def _show_bytes(summary: ArtifactSummary, console: Console) -> None:
    table = Table(title="What travels", title_justify="left")
    table.add_column("what")
    table.add_column("size", justify="right")
    table.add_column("against the whole model", justify="right")
    for plan, size in summary.download_once.items():
        table.add_row(f"download once, plan {plain(plan)}", _size(size), "")
    per_round = summary.download_per_round
    table.add_row("download each round", _size(per_round), _ratio(summary.model_bytes / per_round))
    for upload in summary.uploads:
        count = "1 head" if upload.heads == 1 else f"{upload.heads} heads"
        what = "upload" if upload.heads is None else f"upload, {count} a layer"
        table.add_row(what, _size(upload.bytes), _ratio(upload.times_smaller_than_model))
    console.print(table)


def _show_plans(summary: ArtifactSummary, console: Console) -> None:
    table = Table(title="Plans", title_justify="left")
    for column in ("plan", "runtime", "largest error", "cannot do"):
        table.add_column(column, overflow="fold")
    for name, plan in summary.plans.items():
        known = PLANS.get(name)
        limits = ", ".join(f"{key} {most}" for key, most in sorted(plan.limits.items()))
        cannot = [] if known is None else list(known.cannot)
        if limits:
            cannot.insert(0, f"takes at most {limits}")
        table.add_row(
            plain(name),
            "not known to this version" if known is None else known.runtime,
            "" if plan.worst_error is None else f"{plan.worst_error:.1e}",
            plain("; ".join(cannot)),
        )
    console.print(table)


def plain(text: str) -> str:
    """Text from a manifest: no markup, and no control sequences for the reader's terminal."""
    return escape("".join(sign if sign.isprintable() else "\ufffd" for sign in text))


def _size(size: int) -> str:
    """Bytes for a person: kB is 10^3, MB is 10^6."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"


def _ratio(times: float) -> str:
    return f"{times:,.1f} x smaller" if times >= 1 else f"{1 / times:,.1f} x larger"
