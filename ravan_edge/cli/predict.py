"""``ravan predict``: the trained model at work."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ravan_edge.cli.common import JsonOption, PlanSettings, print_json, takes_settings
from ravan_edge.cli.opened import Opened, opened
from ravan_edge.data.words import WordTexts
from ravan_edge.errors import UsageError
from ravan_edge.methods import Vector
from ravan_edge.tasks import LENGTH_HELP
from ravan_edge.training import predict as probabilities_of
from ravan_edge.training import predict_tokens

__all__ = ["predict"]

_BATCH = 32
_CUT = "(no token: behind --max-length, or unknown to the tokenizer)"


@takes_settings(running=PlanSettings)
def predict(
    artifact: Annotated[Path, typer.Argument(help="The artifact's folder.")],
    texts: Annotated[
        list[str], typer.Argument(help="Texts, or image files; - reads one per line from stdin.")
    ],
    running: PlanSettings,
    heads: Annotated[
        Path | None, typer.Option("--heads", help="Saved heads. Default: the initial ones.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many labels to show.")] = 3,
    max_length: Annotated[int | None, typer.Option("--max-length", min=1, help=LENGTH_HELP)] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which labels texts have, with probabilities; for token-classification, each word's.

    Examples:
      ravan predict runs/demo/artifact --heads heads.safetensors "Where is my new card?"
      ravan predict runs/demo/artifact --heads heads.safetensors --json - < questions.txt
      ravan predict flowers.ravan --heads heads.safetensors photo.jpg
    """
    wanted = [line.strip() for line in sys.stdin if line.strip()] if texts == ["-"] else texts
    if not wanted:
        raise UsageError("no text on stdin", where="-", hint="write one text per line")
    with opened(artifact, running) as kit:
        vector, _ = kit.heads(heads)
        dataset = kit.task.read(kit.artifact, wanted, kit.length(max_length))
        if isinstance(dataset, WordTexts):
            found = _of_words(kit, vector, dataset, top)
        else:
            probabilities = probabilities_of(
                kit.step, kit.method, vector, dataset, batch_size=_BATCH
            )
            found = [{"labels": ranked} for ranked in _ranked(probabilities, kit.labels, top)]
    predictions = [{"text": text, **item} for text, item in zip(wanted, found, strict=True)]
    if as_json:
        print_json({"predictions": predictions})
        return
    for prediction in predictions:
        if len(predictions) > 1:
            typer.echo(prediction["text"])
        if "words" in prediction:
            _show_words(prediction["words"])
        else:
            for entry in prediction["labels"]:
                typer.echo(f"{entry['probability']:7.2%}  {entry['label']}")


def _ranked(
    probabilities: NDArray[np.float64], labels: Sequence[str], top: int
) -> list[list[dict[str, Any]]]:
    """The most probable labels of each row of [rows, labels], largest first."""
    # Of equal ones the smaller index.
    orders = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [
        [{"label": labels[index], "probability": float(row[index])} for index in order]
        for row, order in zip(probabilities, orders, strict=True)
    ]


def _of_words(kit: Opened, heads: Vector, texts: WordTexts, top: int) -> list[dict[str, Any]]:
    """Each text's words, each with its labels: those of its first token."""
    tokens = predict_tokens(kit.step, kit.method, heads, texts, batch_size=_BATCH)
    found = []
    for words, firsts, probabilities in zip(texts.words, texts.firsts, tokens, strict=True):
        ranked = iter(_ranked(probabilities[firsts[firsts >= 0]], kit.labels, top))
        entries = [
            {"word": word, "labels": next(ranked) if first >= 0 else []}
            for word, first in zip(words, firsts, strict=True)
        ]
        found.append({"words": entries})
    return found


def _show_words(words: Sequence[dict[str, Any]]) -> None:
    width = max(len(entry["word"]) for entry in words)
    for entry in words:
        best = entry["labels"][0] if entry["labels"] else None
        label = f"{best['probability']:7.2%}  {best['label']}" if best else f"      -  {_CUT}"
        typer.echo(f"{entry['word']:<{width}}  {label}")
