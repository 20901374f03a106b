"""``ravan merge``: trained heads folded into models for other tools (docs/merge.md)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ravan_edge.cli.common import JsonOption, print_json, say, takes_settings
from ravan_edge.memory import format_bytes
from ravan_export.quiet import quiet_imports
from ravan_export.settings import Trust

if TYPE_CHECKING:
    from ravan_export.merge import Merged

__all__ = ["merge"]


@takes_settings(trust=Trust)
def merge(
    artifact: Annotated[Path, typer.Argument(help="The artifact's folder.")],
    to: Annotated[str, typer.Option("--to", help="hf, peft, onnx or artifact.")],
    out: Annotated[Path, typer.Option("--out", help="The new folder; must not exist.")],
    trust: Trust,
    heads: Annotated[
        Path | None, typer.Option("--heads", help="Saved heads. Default: the initial ones.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="hf, peft, artifact: the folder or hub id of the model that was exported. "
            "Default: what the artifact calls it.",
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", help="peft: a lower rank, by SVD. Default: exact."),
    ] = None,
    quantise: Annotated[
        str | None, typer.Option("--quantise", help="onnx: int8. Default: float32.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="onnx: texts to compare the result and the artifact on."),
    ] = None,
    text_column: Annotated[
        str | None,
        typer.Option(
            "--text-column", help="Column of the texts. Default: found by its usual names."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="artifact: of the fresh bases. Default: the old one plus 1."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what `ravan merge` or `export` made.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Fold trained heads into a model for other tools.

    The result is compared with the artifact's own evaluation before it is given its name.

    Examples:
      ravan merge mails.ravan --heads heads.safetensors --to hf --model ./roberta-base --out merged
      ravan merge mails.ravan --heads heads.safetensors --to onnx --quantise int8 --out shipped
    """
    quiet_imports()
    from ravan_export.merge import merge_artifact

    merged = merge_artifact(
        artifact,
        heads,
        to,
        out,
        model=model,
        rank=rank,
        quantise=quantise,
        seed=seed,
        data=data,
        text_column=text_column,
        overwrite=overwrite,
        allow_pickle=trust.allow_pickle,
        trust_remote_code=trust.trust_remote_code,
        announce=lambda message: say(f"note: {message}"),
        progress=(lambda _: None) if as_json else _progress,
    )
    if as_json:
        print_json(_document(merged))
    else:
        _show(merged)


def _progress(message: str) -> None:
    # One line that is written over on a terminal, one line each in a pipe.
    if sys.stderr.isatty():
        typer.echo(f"\r\x1b[K{message} ...", err=True, nl=False)
    else:
        say(message)


def _document(merged: Merged) -> dict[str, object]:
    gap = merged.gap
    return {
        "out": str(merged.folder),
        "to": merged.to,
        "version": merged.version,
        "files": dict(merged.files),
        "bytes": merged.bytes,
        "largest_difference": None if gap is None else gap.logits,
        "same_label": None if gap is None or not gap.rows else gap.agreement,
        "rows": 0 if gap is None else gap.rows,
        **merged.details,
        "notices": list(merged.notices),
    }


def _show(merged: Merged) -> None:
    if sys.stderr.isatty():
        typer.echo("\r\x1b[K", err=True, nl=False)
    for notice in merged.notices:
        say(f"note: {notice}")
    line = f"{merged.folder}: {merged.to}, {format_bytes(merged.bytes)}"
    if merged.gap is not None:
        line += f"; within {merged.gap.logits:.1e} of the artifact"
        if merged.gap.rows:
            line += f", same label for {merged.gap.agreement:.1%} of {merged.gap.rows} rows"
    typer.echo(line)
    details = merged.details
    if details.get("ranks"):
        ranks = sorted(set(details["ranks"].values()))
        shown = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        if details["worst_error"]:
            worst = max(details["errors"], key=details["errors"].get)
            typer.echo(
                f"rank {shown}; relative error of what is added: mean {details['mean_error']:.2%}, "
                f"worst {details['worst_error']:.2%} ({worst})"
            )
        else:
            typer.echo(f"rank {shown}, exact")
    if "float_bytes" in details:
        typer.echo(
            f"{details['quantised']}: {format_bytes(merged.files['model.onnx'])}, "
            f"float32: {format_bytes(details['float_bytes'])}"
        )
