"""``ravan eval``: how good heads are on a labelled file."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ravan_edge.cli.common import (
    DataSettings,
    JsonOption,
    PlanSettings,
    Reporter,
    print_json,
    takes_settings,
)
from ravan_edge.cli.opened import opened
from ravan_edge.training import evaluate as score

__all__ = ["evaluate"]

_SHOWN_CLASSES = 10


@takes_settings(reading=DataSettings, running=PlanSettings)
def evaluate(
    artifact: Annotated[Path, typer.Argument(help="The artifact's folder.")],
    data: Annotated[
        Path,
        typer.Option(
            "--data", help="csv, tsv, jsonl or parquet with labels; for images also a folder."
        ),
    ],
    reading: DataSettings,
    running: PlanSettings,
    heads: Annotated[
        Path | None, typer.Option("--heads", help="Saved heads. Default: the initial ones.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, max=65_536, help="Rows at once.")
    ] = 64,
    confusion: Annotated[
        bool, typer.Option("--confusion", help="With --json: rows by label and prediction.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Score heads on a labelled file: accuracy, loss and count.

    Examples:
      ravan eval runs/demo/artifact --data test.parquet
      ravan eval runs/demo/artifact --heads heads.safetensors --data test.csv --json | jq .accuracy
    """
    reporter = Reporter()
    with opened(artifact, running) as kit:
        vector, version = kit.heads(heads)
        dataset = kit.load(data, reading, reporter).dataset
        began = time.perf_counter()
        with reporter.bar("evaluating") as bar:
            scores = score(
                kit.step,
                kit.method,
                vector,
                dataset,
                np.arange(len(dataset), dtype=np.int64),
                batch_size=batch_size,
                confusion=confusion,
                on_rows=lambda done, total: bar(done, total, ""),
            )
        seconds = time.perf_counter() - began
        labels, task = kit.labels, kit.task
    classes = [
        {"label": label, "correct": int(correct), "count": int(total)}
        for label, correct, total in zip(
            labels, scores.class_correct, scores.class_total, strict=True
        )
    ]
    if as_json:
        document = {
            "accuracy": scores.accuracy,
            "loss": scores.loss,
            "count": scores.count,
            "version": version,
            "seconds": round(seconds, 3),
            "classes": classes,
        }
        if task.perplexity:
            document["perplexity"] = math.exp(scores.loss)
        if scores.confusion is not None:
            document["confusion"] = scores.confusion.tolist()
        print_json(document)
        return
    typer.echo(f"accuracy  {scores.accuracy:.2%}  ({scores.count:,} {task.counted})")
    typer.echo(f"loss      {scores.loss:.4f}")
    if task.perplexity:
        typer.echo(f"perplexity {math.exp(scores.loss):.2f}")
    worst = sorted(
        (int(total - correct), label)
        for label, correct, total in zip(
            labels, scores.class_correct, scores.class_total, strict=True
        )
        if total > correct
    )[::-1]
    if worst:
        shown = ", ".join(f"{label} ({missed})" for missed, label in worst[:_SHOWN_CLASSES])
        typer.echo(f"most missed: {shown}")
