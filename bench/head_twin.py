"""The slow twin of ``head-only``, made quick: frozen features are computed once, the head trains on them.

    python -m bench.head_twin ARTIFACT --model FOLDER --train FILE [--test FILE] --lr 1e-3,1e-2 ...

Nothing but the linear task head trains, so the encoder's features of a row never change and a run of
30 rounds takes seconds: this is how head-only's learning rate is swept on as many values as one
likes. Without ``--test``, validation rows are taken from the training file and scored.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bench.torch_twin import State, Twin, average, tensors
from bench.twin_run import Prepared, parser, prepare
from ravan_edge.data import TokenisedDataset, local_round_batches

__all__ = ["FeatureSet", "feature_set", "federate_head", "main"]

LAST = 5


@dataclass(frozen=True)
class FeatureSet:
    """Frozen features of the rows of a file, [rows, width], and their labels."""

    features: Tensor
    labels: Tensor


def feature_set(twin: Twin, data: TokenisedDataset, pad_id: int) -> FeatureSet:
    """Features of all rows, in the file's order."""
    found = torch.empty(len(data), twin.task_head.in_features)
    order = np.argsort(data.lengths, kind="stable")
    with torch.inference_mode():
        for begin in range(0, len(order), 64):
            rows = order[begin : begin + 64]
            ids, mask, _ = tensors(data, rows, pad_id)
            found[rows] = twin.features(twin.encoder, ids, mask)
    return FeatureSet(found, torch.from_numpy(data.labels.astype(np.int64)))


def perturbed(rows: FeatureSet, amount: float) -> FeatureSet:
    """The same rows with every feature off by a normal relative error of that size."""
    noise = torch.randn(rows.features.shape, generator=torch.Generator().manual_seed(5))
    return FeatureSet(rows.features * (1 + amount * noise), rows.labels) if amount else rows


def federate_head(
    heads: State,
    rows: FeatureSet,
    parts: Sequence[NDArray[np.int64]],
    cohorts: Sequence[Sequence[int]],
    *,
    seed: int,
    lr: float,
    batch_size: int,
    steps: int,
) -> list[State]:
    """Federated averaging of a linear head: the merged head after each round."""
    versions = []
    for number, cohort in enumerate(cohorts):
        uploads = []
        for device in cohort:
            state = {name: value.clone().requires_grad_() for name, value in heads.items()}
            optimiser = torch.optim.Adam(state.values(), lr=lr)
            for batch in local_round_batches(
                parts[device],
                seed=seed,
                round=number,
                device=device,
                batch_size=batch_size,
                steps=steps,
            ):
                logits = _logits(state, rows.features[batch])
                loss = functional.cross_entropy(logits, rows.labels[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            uploads.append({name: value.detach() for name, value in state.items()})
        heads = average(uploads)
        versions.append(heads)
    return versions


def _logits(state: State, features: Tensor) -> Tensor:
    return functional.linear(features, state["task_head.weight"], state["task_head.bias"])


def accuracy(state: State, rows: FeatureSet, chosen: NDArray[np.int64] | None) -> float:
    """Share of right answers among some rows; None: all of them."""
    index = slice(None) if chosen is None else torch.from_numpy(chosen)
    right = _logits(state, rows.features[index]).argmax(dim=-1) == rows.labels[index]
    return float(right.float().mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Every learning rate with every seed; one JSON document."""
    takes = parser("bench.head_twin", __doc__, lr=str, seed=str)
    takes.add_argument(
        "--perturb", type=float, default=0.0,
        help="change features by this relative amount, to see how far rounding alone can lead",
    )  # fmt: skip
    options = takes.parse_args(arguments)
    torch.set_num_threads(options.threads)
    sets: tuple[FeatureSet, FeatureSet] | None = None
    found = []
    for seed in map(int, options.seed.split(",")):
        made: Prepared = prepare(options, seed)
        if sets is None:
            train = feature_set(made.twin, made.choices.train, made.pad_id)
            same = made.test is made.choices.train
            sets = train, train if same else feature_set(made.twin, made.test, made.pad_id)
            sets = perturbed(sets[0], options.perturb), perturbed(sets[1], options.perturb)
        for lr in map(float, options.lr.split(",")):
            versions = federate_head(
                made.heads,
                sets[0],
                made.choices.parts,
                made.choices.cohorts,
                seed=seed,
                lr=lr,
                batch_size=options.batch_size,
                steps=options.local_steps,
            )
            curve = [accuracy(version, sets[1], made.choices.validation) for version in versions]
            chosen = [
                value
                for number, value in enumerate(curve, start=1)
                if number % options.evaluate_every == 0 or number == len(curve)
            ]
            figure = sum(chosen[-LAST:]) / len(chosen[-LAST:])
            found.append({"seed": seed, "lr": lr, "figure": figure, "accuracy": curve})
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
