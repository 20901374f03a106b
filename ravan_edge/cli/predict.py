"""``ravan predict``: the trained model at work."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ravan_edge.cli.common import JsonOption, PlanSettings, print_json, takes_settings
from ravan_edge.cli.opened import opened
from ravan_edge.errors import UsageError
from ravan_edge.training import predict as probabilities_of

__all__ = ["predict"]

_BATCH = 32


@takes_settings(running=PlanSettings)
def predict(
    artifact: Annotated[Path, typer.Argument(help="The artifact's folder.")],
    texts: Annotated[
        list[str], typer.Argument(help="Texts; a single - reads one per line from stdin.")
    ],
    running: PlanSettings,
    heads: Annotated[
        Path | None, typer.Option("--heads", help="Saved heads. Default: the initial ones.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many labels to show.")] = 3,
    max_length: Annotated[
        int, typer.Option("--max-length", min=1, help="Most tokens of a text.")
    ] = 128,
    as_json: JsonOption = False,
) -> None:
    """Say which labels texts have, with probabilities.

    Examples:
      ravan predict runs/demo/artifact --heads heads.safetensors "Where is my new card?"
      ravan predict runs/demo/artifact --heads heads.safetensors --json - < questions.txt
    """
    wanted = [line.strip() for line in sys.stdin if line.strip()] if texts == ["-"] else texts
    if not wanted:
        raise UsageError("no text on stdin", where="-", hint="write one text per line")
    with opened(artifact, running) as kit:
        vector, _ = kit.heads(heads)
        dataset = kit.task.read(kit.artifact, wanted, kit.length(max_length))
        probabilities = probabilities_of(kit.step, kit.method, vector, dataset, batch_size=_BATCH)
        labels = kit.labels
    # Largest first; of equal ones the smaller index.
    orders = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    found = [
        [(labels[index], float(row[index])) for index in order]
        for row, order in zip(probabilities, orders, strict=True)
    ]
    if as_json:
        print_json(
            {
                "predictions": [
                    {
                        "text": text,
                        "labels": [{"label": label, "probability": p} for label, p in ranked],
                    }
                    for text, ranked in zip(wanted, found, strict=True)
                ]
            }
        )
        return
    for text, ranked in zip(wanted, found, strict=True):
        if len(wanted) > 1:
            typer.echo(text)
        for label, probability in ranked:
            typer.echo(f"{probability:7.2%}  {label}")
