"""Scores of the current heads on all sets, with the batches spread over the workers.

The batches are fixed and each is computed by one worker; counts are integers and losses are added
in the order of the batches, so the result does not depend on how many workers there are.
"""

from __future__ import annotations

import math

import numpy as np

from ravan_edge.simulate.messages import EvaluationSet, UseHeads
from ravan_edge.simulate.metrics import line
from ravan_edge.simulate.state import Evaluation, RunState, SetScores
from ravan_edge.simulate.workers import WorkerPool

__all__ = ["divergence", "evaluate_sets", "evaluation_lines"]

# Far beyond what overfitting or an unlucky round does to a mean loss.
_DIVERGED_FACTOR = 10.0


def evaluate_sets(pool: WorkerPool, sets: dict[str, EvaluationSet], state: RunState) -> Evaluation:
    """Scores of ``state.heads`` on every set.

    Raises:
        RavanError: A worker failed.
    """
    pool.open(UseHeads(state.round, state.heads))
    return {name: _evaluate(pool, name, rows) for name, rows in sets.items()}


def _evaluate(pool: WorkerPool, name: str, rows: EvaluationSet) -> SetScores:
    parts = pool.evaluate(name, rows.batches)
    losses = sorted(loss for part in parts for loss in part.losses)
    total = (
        math.fsum(loss for _, loss in losses)
        if all(math.isfinite(loss) for _, loss in losses)
        else math.nan
    )
    counted = np.sum([part.count for part in parts], axis=0)
    correct = np.sum([part.correct for part in parts], axis=0)
    count = int(counted.sum())
    loss = total / count
    return SetScores(
        loss=loss if math.isfinite(loss) else None,
        accuracy=int(correct.sum()) / count,
        count=count,
        per_class=tuple(zip(counted.tolist(), correct.tolist(), strict=True)),
    )


def evaluation_lines(state: RunState, scores: Evaluation) -> list[bytes]:
    """The lines of metrics.jsonl for one evaluation."""
    return [
        line("evaluation", {"round": state.round, "set": name, **each.as_dict()})
        for name, each in scores.items()
    ]


def divergence(state: RunState, scores: Evaluation, labels: int) -> str | None:
    """What to say when a loss ran away: not finite, or ten times that of the start or of a guess."""
    for name, each in scores.items():
        first = state.initial.get(name)
        start = math.log(max(2, labels))
        if first is not None and first.loss is not None:
            start = max(start, first.loss)
        if each.loss is None or each.loss > _DIVERGED_FACTOR * start:
            found = "no finite number" if each.loss is None else f"{each.loss:.3g}"
            return f"round {state.round}: the run diverged, its {name} loss is {found} (from {start:.3g})"
    return None
