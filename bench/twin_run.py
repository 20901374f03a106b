"""One run of the slow twin on an artifact: ``python -m bench.twin_run ARTIFACT --model FOLDER ...``.

Takes the choices from where the kit takes them (tokens, partition, cohorts, batches, bases, initial
heads) and prints one JSON document. ``bench/torch_twin.py`` computes everything else. Without
``--test``, validation rows are taken from the training file and scored.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from bench.torch_twin import (
    LoraLinear,
    RavanLinear,
    State,
    Twin,
    TwinSettings,
    federate,
    score,
    sentence_features,
)
from ravan_edge.artifact import Artifact, open_artifact
from ravan_edge.data import (
    TokenisedDataset,
    parse_partition,
    partition,
    read_rows,
    tokenise,
    validation_split,
)
from ravan_edge.simulate.cohort import sample_cohort

__all__ = ["Choices", "Prepared", "adapt", "choose", "initial_heads", "main", "parser", "prepare"]

_VALIDATION = 0.1


@dataclass(frozen=True)
class Choices:
    """What kit and twin must share.

    Args:
        train: The training rows.
        parts: Rows of each device.
        cohorts: Devices of each round.
        validation: Rows of ``train`` that are scored instead of a test file, or None.
    """

    train: TokenisedDataset
    parts: Sequence[NDArray[np.int64]]
    cohorts: Sequence[Sequence[int]]
    validation: NDArray[np.int64] | None


def choose(
    train: TokenisedDataset,
    *,
    devices: int,
    per_round: int,
    rounds: int,
    rule: str,
    validation: float,
    seed: int,
) -> Choices:
    """The rows and cohorts of a run of ``ravan simulate`` with these options."""
    labels = train.labels.astype(np.int64)
    kept, held_out = validation_split(len(train), labels, validation, seed)
    dealt = partition(labels[kept], None, parse_partition(rule), devices, seed)
    parts = [kept[rows] for rows in dealt]
    eligible = np.array([device for device, rows in enumerate(parts) if len(rows)], dtype=np.int64)
    cohorts = [
        sample_cohort(eligible, per_round, seed=seed, round=number).tolist()
        for number in range(rounds)
    ]
    return Choices(train, parts, cohorts, held_out if len(held_out) else None)


def adapt(twin: Twin, artifact: Artifact) -> None:
    """Put the artifact's adapters on the twin's layers."""
    method = artifact.manifest.method
    for layer in artifact.manifest.layers:
        if method.name == "ravan":
            A, Bt = (
                torch.from_numpy(np.array(artifact.base[f"{layer.name}.{side}"]))
                for side in ("A", "Bt")
            )
            twin.adapt(layer.name, partial(RavanLinear, A=A, Bt=Bt))
        else:
            alpha = layer.rank if method.alpha is None else method.alpha
            twin.adapt(layer.name, partial(LoraLinear, rank=layer.rank, alpha=alpha))


def initial_heads(artifact: Artifact) -> State:
    """The trainable state that both start from."""
    return {k: torch.from_numpy(np.array(v)) for k, v in artifact.initial_heads().items()}


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start; ``test`` is the training set where validation rows are scored."""

    twin: Twin
    heads: State
    choices: Choices
    test: TokenisedDataset
    pad_id: int


def prepare(options: argparse.Namespace, seed: int) -> Prepared:
    """Open and read everything that the options name."""
    artifact = open_artifact(options.artifact)
    manifest, tokenizer = artifact.manifest, artifact.tokenizer_path
    assert manifest.text is not None, "the task does not read text"
    assert tokenizer is not None, "the artifact has no tokenizer"

    def read(path: Path) -> TokenisedDataset:
        rows = read_rows(path, skip_empty=options.skip_empty)
        return tokenise(rows, tokenizer, max_length=options.max_length, label_names=manifest.labels)

    choices = choose(
        read(options.train),
        devices=options.devices,
        per_round=options.per_round,
        rounds=options.rounds,
        rule=options.partition,
        validation=_VALIDATION if options.test is None else 0.0,
        seed=seed,
    )
    encoder = AutoModel.from_pretrained(options.model, attn_implementation="eager")
    width = encoder.config.hidden_size
    twin = Twin(encoder, sentence_features, width, len(manifest.labels))
    adapt(twin, artifact)
    test = choices.train if options.test is None else read(options.test)
    return Prepared(twin, initial_heads(artifact), choices, test, manifest.text.pad_id)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it."""
    options = parser("bench.twin_run", __doc__, lr=float, seed=int).parse_args(arguments)
    torch.set_num_threads(options.threads)
    made = prepare(options, options.seed)
    settings = TwinSettings(
        seed=options.seed,
        local_steps=options.local_steps,
        batch_size=options.batch_size,
        lr=options.lr,
        task_head_lr=options.lr if options.task_head_lr is None else options.task_head_lr,
        pad_id=made.pad_id,
    )
    began = time.monotonic()
    evaluations: list[dict[str, Any]] = []
    shared = made.choices
    versions = federate(made.twin, made.heads, shared.train, shared.parts, shared.cohorts, settings)
    for number, heads in enumerate(versions, start=1):
        if number % options.evaluate_every == 0 or number == options.rounds:
            found = score(made.twin, heads, made.test, made.pad_id, rows=shared.validation)
            evaluations.append({"round": number, "accuracy": found.accuracy, "loss": found.loss})
            seconds = time.monotonic() - began
            print(
                f"round {number}/{options.rounds}  accuracy {100 * found.accuracy:.1f} %  "
                f"{seconds:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    print(json.dumps({"evaluations": evaluations, "seconds": time.monotonic() - began}))
    return 0


def parser(
    name: str, text: str | None, *, lr: Callable[[str], Any], seed: Callable[[str], Any]
) -> argparse.ArgumentParser:
    """The options of a twin; those that ``ravan simulate`` has too mean the same there."""
    found = argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("artifact", type=Path, help="made by `ravan export`")
    found.add_argument("--model", type=Path, required=True, help="the folder it was made from")
    found.add_argument("--train", type=Path, required=True)
    found.add_argument("--test", type=Path)
    found.add_argument("--devices", type=int, default=20)
    found.add_argument("--per-round", type=int, default=3)
    found.add_argument("--rounds", type=int, default=30)
    found.add_argument("--local-steps", type=int, default=50)
    found.add_argument("--batch-size", type=int, default=16)
    found.add_argument("--max-length", type=int, default=128)
    found.add_argument("--partition", default="iid")
    found.add_argument("--evaluate-every", type=int, default=1)
    found.add_argument("--skip-empty", action="store_true", help="leave out rows without text")
    found.add_argument("--lr", type=lr, required=True)
    found.add_argument("--task-head-lr", type=float)
    found.add_argument("--threads", type=int, default=1)
    found.add_argument("--seed", type=seed, default="0")
    return found


if __name__ == "__main__":
    sys.exit(main())
