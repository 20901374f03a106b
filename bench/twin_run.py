"""One run of the slow twin on an artifact: ``python -m bench.twin_run ARTIFACT --model FOLDER ...``.

Takes the choices from where the kit takes them (tokens, partition, cohorts, batches, bases, initial
heads) and prints one JSON document. ``bench/torch_twin.py`` computes everything else.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
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

__all__ = ["Choices", "build_twin", "choices", "initial_heads", "main"]


@dataclass(frozen=True)
class Choices:
    """What kit and twin must share: which rows each device has, and who takes part in each round."""

    train: TokenisedDataset
    parts: Sequence[np.ndarray[Any, np.dtype[np.int64]]]
    cohorts: Sequence[Sequence[int]]


def choices(
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
    kept, _ = validation_split(len(train), labels, validation, seed)
    dealt = partition(labels[kept], None, parse_partition(rule), devices, seed)
    parts = [kept[rows] for rows in dealt]
    eligible = np.array([device for device, rows in enumerate(parts) if len(rows)], dtype=np.int64)
    cohorts = [
        sample_cohort(eligible, per_round, seed=seed, round=number).tolist()
        for number in range(rounds)
    ]
    return Choices(train, parts, cohorts)


def build_twin(artifact: Artifact, model: Path) -> Twin:
    """The original model with this artifact's adapters."""
    encoder = AutoModel.from_pretrained(model, attn_implementation="eager")
    manifest = artifact.manifest
    width = encoder.config.hidden_size
    twin = Twin(encoder, sentence_features, width, len(manifest.labels))
    adapt(twin, artifact)
    return twin


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it."""
    options = _options().parse_args(arguments)
    torch.set_num_threads(options.threads)
    artifact = open_artifact(options.artifact)
    text = artifact.manifest.text
    assert text is not None, "the artifact's task does not read text"
    tokenizer = options.artifact / text.tokenizer

    def read(path: Path) -> TokenisedDataset:
        rows = read_rows(path)
        names = artifact.manifest.labels
        return tokenise(rows, tokenizer, max_length=options.max_length, label_names=names)

    shared = choices(
        read(options.train),
        devices=options.devices,
        per_round=options.per_round,
        rounds=options.rounds,
        rule=options.partition,
        validation=options.validation,
        seed=options.seed,
    )
    test = read(options.test)
    settings = TwinSettings(
        seed=options.seed,
        local_steps=options.local_steps,
        batch_size=options.batch_size,
        lr=options.lr,
        task_head_lr=options.lr if options.task_head_lr is None else options.task_head_lr,
        pad_id=text.pad_id,
    )
    twin = build_twin(artifact, options.model)
    began = time.monotonic()
    evaluations = []
    versions = federate(
        twin, initial_heads(artifact), shared.train, shared.parts, shared.cohorts, settings
    )
    for number, heads in enumerate(versions, start=1):
        if number % options.evaluate_every == 0 or number == options.rounds:
            found = score(twin, heads, test, text.pad_id)
            evaluations.append({"round": number, "accuracy": found.accuracy, "loss": found.loss})
            print(f"round {number}: accuracy {found.accuracy:.4f}", file=sys.stderr, flush=True)
    document = {"evaluations": evaluations, "seconds": time.monotonic() - began}
    print(json.dumps(document))
    return 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.twin_run", description=__doc__)
    parser.add_argument("artifact", type=Path, help="made by `ravan export`")
    parser.add_argument("--model", type=Path, required=True, help="the folder it was made from")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--per-round", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--local-steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--partition", default="iid")
    parser.add_argument("--validation", type=float, default=0.0)
    parser.add_argument("--evaluate-every", type=int, default=1)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--task-head-lr", type=float)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
