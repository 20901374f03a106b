"""``ravan train``: one local round on one user's file, without any server."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ravan_edge.artifact.heads import write_heads
from ravan_edge.cli.common import (
    DataSettings,
    JsonOption,
    PlanSettings,
    Reporter,
    print_json,
    say,
    takes_settings,
)
from ravan_edge.cli.opened import Opened, opened
from ravan_edge.data import Dataset, validation_split
from ravan_edge.errors import (
    ArtifactError,
    InterruptedRunError,
    StorageError,
    UsageError,
)
from ravan_edge.files import storage_errors
from ravan_edge.memory import PeakSampler, format_bytes
from ravan_edge.methods import Vector
from ravan_edge.tasks import Task, row_classes
from ravan_edge.training import (
    LocalResult,
    LocalSettings,
    RoundState,
    Scores,
    check_options,
    evaluate,
    initial_state,
    load_state,
    local_round,
    option,
    save_state,
)

__all__ = ["RunSettings", "train"]

_EVALUATION_BATCH = 64
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class RunSettings:
    """What ``ravan train`` can be told besides the local round's own settings."""

    epochs: int | None = option(
        None,
        "Passes over the data, instead of --local-steps.",
        minimum=1,
        maximum=100_000,
    )
    train_heads: int | None = option(
        None, "Heads of each layer that train (ravan). Default: all.", minimum=1
    )
    validation: float = option(
        0.0,
        "Share of the rows that is scored before and after, and not trained on.",
        minimum=0,
        maximum=0.9,
        group="Data",
    )
    seed: int = option(0, "Seed of everything that is drawn.", minimum=0, maximum=(1 << 64) - 1)
    checkpoint_seconds: float = option(
        10.0,
        "Save the unfinished training about so often; 0: after every step.",
        minimum=0,
        group="Runtime",
    )

    def __post_init__(self) -> None:
        check_options(self)


@takes_settings(local=LocalSettings, run=RunSettings, reading=DataSettings, running=PlanSettings)
def train(
    artifact: Annotated[Path, typer.Argument(help="The artifact's folder.")],
    data: Annotated[
        Path,
        typer.Option(
            "--data", help="csv, tsv, jsonl or parquet with labels; for images also a folder."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Where to save the trained heads.")],
    local: LocalSettings,
    run: RunSettings,
    reading: DataSettings,
    running: PlanSettings,
    heads: Annotated[
        Path | None, typer.Option("--heads", help="Heads to start from. Default: the initial ones.")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget an unfinished training of this --out.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train heads on one file, on this device alone, and save them.

    After Ctrl-C or a crash the same command continues, and ends bitwise as if nothing had happened.

    Examples:
      ravan train runs/demo/artifact --data mine.csv --out heads.safetensors --epochs 3
      ravan train runs/demo/artifact --data mine.csv --out h.safetensors --validation 0.1 --json
      ravan predict runs/demo/artifact --heads heads.safetensors "Where is my new card?"
    """
    _check_out(out)
    reporter = Reporter()
    with opened(artifact, running) as kit, PeakSampler([os.getpid()]) as sampler:
        # The length itself counts, whether it was typed or is the default for this model.
        reading = replace(reading, max_length=kit.length(reading.max_length))
        sampler.family_peak_bytes(os.getpid())  # a plan's own process is watched from here
        loaded = kit.load(data, reading, reporter)
        dataset = loaded.dataset
        examples, held_out = validation_split(
            len(dataset), row_classes(dataset, kit.task), run.validation, run.seed
        )
        if run.epochs is not None:
            steps = run.epochs * -(-len(examples) // local.batch_size)
            local = replace(local, local_steps=steps)
        start, version = kit.heads(heads)
        configuration = _digest(
            artifact=kit.artifact.digest,
            data=loaded.sha256,
            columns=asdict(loaded.columns),
            heads=hashlib.sha256(start.tobytes()).hexdigest(),
            local=local.as_dict(),
            # How often a checkpoint is saved changes nothing.
            run=asdict(replace(run, checkpoint_seconds=0.0)),
            reading=asdict(reading),
            running=asdict(running),
        )
        unfinished = _Unfinished(out, configuration, run.checkpoint_seconds)
        resume = unfinished.load(initial_state(kit.method, start, local), kit.layers, restart)
        before = _score(kit, start, dataset, held_out, reporter)
        result = _train(kit, start, dataset, examples, local, run, unfinished, resume, reporter)
        trained = kit.method.fold(result.parameters)
        after = _score(kit, trained, dataset, held_out, reporter)
        write_heads(out, kit.artifact, kit.method.layout.views(trained), version + 1)
        unfinished.remove()
        peak, peak_bytes = sampler.peak(os.getpid()), sampler.family_peak_bytes(os.getpid())
    document: dict[str, Any] = {
        "heads": str(out),
        "version": version + 1,
        "steps": result.steps,
        "resumed_at_step": 0 if resume is None else resume.steps,
        "examples": result.examples,
        "tokens": result.tokens,
        "rows": len(examples),
        "loss": {
            "first": float(result.losses[0]),
            "last": float(result.losses[-1]),
            "mean": result.mean_loss,
        },
        "training_accuracy": result.correct / result.counted,
        "losses": [round(float(loss), 6) for loss in result.losses],
        "validation": None
        if before is None or after is None
        else {"before": _figures(before, kit.task), "after": _figures(after, kit.task)},
        "seconds": round(result.seconds, 3),
        "peak_memory_bytes": peak_bytes,
        "mapped_bytes": peak.mapped_bytes,
    }
    if as_json:
        print_json(document)
    else:
        _show(document, result)


def _train(
    kit: Opened,
    start: Vector,
    dataset: Dataset,
    examples: NDArray[np.int64],
    local: LocalSettings,
    run: RunSettings,
    unfinished: _Unfinished,
    resume: RoundState | None,
    reporter: Reporter,
) -> LocalResult:
    """The round, with its bar and its checkpoints."""
    with reporter.bar("training", "steps") as bar:

        def on_step(state: RoundState) -> None:
            bar(state.steps, local.local_steps, f"loss {state.losses[-10:].mean():.4f}")
            unfinished.offer(state)

        try:
            return local_round(
                kit.step,
                kit.method,
                start,
                dataset,
                examples,
                local,
                layers=kit.layers,
                seed=run.seed,
                round=0,
                device=0,
                heads_to_train=run.train_heads,
                on_step=on_step,
                resume=resume,
            )
        except KeyboardInterrupt:
            done = unfinished.save_last()
            raise InterruptedRunError(
                f"interrupted after step {done} of {local.local_steps}; nothing is lost",
                hint="type the same command again to continue",
            ) from None


class _Unfinished:
    """The checkpoint beside ``--out``, which is there only while a training is unfinished.

    Args:
        out: The heads file.
        configuration: A digest of all that the result depends on.
        seconds: How often to save.
    """

    def __init__(self, out: Path, configuration: str, seconds: float) -> None:
        self._path = out.with_name(f"{out.name}.unfinished")
        self._configuration = configuration
        self._seconds = seconds
        self._saved_at = time.monotonic()
        self._last: RoundState | None = None

    def load(
        self, empty: RoundState, layers: Mapping[str, int], restart: bool
    ) -> RoundState | None:
        """The state to go on from, if there is one."""
        if restart:
            self.remove()
        if not self._path.exists():
            return None
        try:
            state = load_state(self._path, empty, layers, self._configuration)
        except ArtifactError as error:
            say(f"starting anew: {error}")
            return None
        if state is None:
            raise UsageError(
                "an unfinished training with other settings or data lies here",
                where=str(self._path),
                hint="type its own command to finish it, add --restart to forget it, "
                "or choose another --out",
            )
        say(f"continuing after step {state.steps}")
        self._last = state
        return state

    def offer(self, state: RoundState) -> None:
        """Keep the state, and save it if it is time."""
        self._last = state
        if time.monotonic() - self._saved_at >= self._seconds:
            self.save_last()

    def save_last(self) -> int:
        """Save the last state; how many steps it has behind it."""
        if self._last is None:
            return 0
        save_state(self._path, self._last, self._configuration)
        self._saved_at = time.monotonic()
        return self._last.steps

    def remove(self) -> None:
        """There is nothing unfinished any more."""
        with storage_errors(self._path, "remove the file"):
            self._path.unlink(missing_ok=True)


def _check_out(out: Path) -> None:
    """Refuse a destination before any work is done for it."""
    if out.is_dir():
        raise UsageError("is a folder", where="--out", hint="name a file in it")
    if not out.parent.is_dir():
        raise StorageError(
            "there is no such folder", where=str(out.parent), hint=f"mkdir -p {out.parent}"
        )


def _digest(**content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _score(
    kit: Opened,
    heads: Vector,
    dataset: Dataset,
    indices: NDArray[np.int64],
    reporter: Reporter,
) -> Scores | None:
    """Scores on the rows that are held out; None without any."""
    if not len(indices):
        return None
    with reporter.bar("scoring") as bar:
        return evaluate(
            kit.step,
            kit.method,
            heads,
            dataset,
            indices,
            batch_size=_EVALUATION_BATCH,
            on_rows=lambda done, total: bar(done, total, ""),
        )


def _figures(scores: Scores, task: Task) -> dict[str, float]:
    figures = {"accuracy": scores.accuracy, "loss": scores.loss, "count": scores.count}
    return figures | ({"perplexity": math.exp(scores.loss)} if task.perplexity else {})


def _show(document: Mapping[str, Any], result: LocalResult) -> None:
    loss = document["loss"]
    peak, mapped = (format_bytes(document[key]) for key in ("peak_memory_bytes", "mapped_bytes"))
    examples, tokens = f"{result.examples:,} examples", f"{result.tokens:,} tokens"
    lines = [
        ("loss", f"{loss['first']:.4f} -> {loss['last']:.4f}  {_curve(result.losses)}"),
        ("trained", f"{result.steps:,} steps, {examples}, {tokens}"),
        ("time", f"{result.seconds:.1f} s"),
        ("memory", f"{peak} at most, and {mapped} of mapped files"),
        ("heads", document["heads"]),
    ]
    if document["validation"] is not None:
        before, after = document["validation"]["before"], document["validation"]["after"]
        text = (
            f"{before['accuracy']:.2%} -> {after['accuracy']:.2%} accuracy, "
            f"{before['loss']:.4f} -> {after['loss']:.4f} loss ({after['count']:,} rows)"
        )
        lines.insert(1, ("held out", text))
    for name, text in lines:
        typer.echo(f"{name:<9} {text}")


def _curve(losses: Vector, width: int = 30) -> str:
    """The loss over the steps as a row of bars."""
    means = [float(part.mean()) for part in np.array_split(losses, min(width, len(losses)))]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((mean - low) * scale)] for mean in means)
