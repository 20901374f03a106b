"""The state of a run between two rounds, and its bytes: what a checkpoint holds.

::

    8 bytes   "RAVANCK1"
    8 bytes   N, uint64 little-endian
    N bytes   JSON: everything that is no array, and the sizes of what follows
    ...       heads float32, best heads float32 (or nothing), devices seen uint8, pending lines; with
              --mode async the heads that devices at work train from, a version behind the other; with
              --server-optimizer its moments
    32 bytes  sha256 of all before
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.errors import StorageError
from ravan_edge.merge import Moments, ServerOptimizerName
from ravan_edge.methods import Vector
from ravan_edge.simulate.at_work import AtWork, RunningTask

__all__ = [
    "RECENT",
    "BestRound",
    "Evaluation",
    "RunState",
    "SetScores",
    "state_from_bytes",
    "state_to_bytes",
]

RECENT = 5
"""Over how many evaluated rounds a figure is averaged where one round is too noisy."""

_MAGIC = b"RAVANCK1"
_HEAD = struct.Struct("<8sQ")


@dataclass(frozen=True)
class SetScores:
    """How heads do on one set of rows.

    Args:
        loss: Mean over the rows; None where it is not a finite number.
        accuracy: Share of the rows predicted right.
        count: How many rows.
        per_class: [labels] (rows, rows predicted right).
    """

    loss: float | None
    accuracy: float
    count: int
    per_class: tuple[tuple[int, int], ...] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """For metrics.jsonl and summary.json: without the classes."""
        return {"loss": self.loss, "accuracy": self.accuracy, "count": self.count}


Evaluation = dict[str, SetScores]
"""By the name of the set: ``validation``, ``test``."""


@dataclass(frozen=True)
class BestRound:
    """The round that validation chose."""

    round: int
    scores: Evaluation
    heads: Vector = field(repr=False)


@dataclass(frozen=True)
class RunState:
    """Everything the next round depends on, and everything the summary needs.

    Args:
        round: Rounds done; the version of the heads.
        heads: Float32 [parameters].
        seen: Bool [devices], who took part before and so has the base.
        simulated_seconds: The virtual clock.
        counts: Devices by status, and rounds nobody was merged in, summed over the rounds.
        download_bytes, upload_bytes: Summed over rounds and devices.
        initial: SetScores before the first round.
        last: SetScores of the latest evaluated round.
        recent: Scores of the last evaluated rounds, at most ``RECENT``, the latest at the end.
        best: The best round so far.
        failure: Why the run can never go on, or None.
        moments: Of the server's optimiser; None: there is none, or it has not begun.
        at_work: Who trains right now; None: rounds are synchronous, and nobody does between them.
        wall_seconds: Wall time so far; not part of what is equal between equal runs.
        peak_bytes: Largest anonymous memory of a worker so far; neither.
    """

    round: int
    heads: Vector = field(repr=False)
    seen: NDArray[np.bool_] = field(repr=False)
    simulated_seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    download_bytes: int = 0
    upload_bytes: int = 0
    initial: Evaluation = field(default_factory=dict)
    last: Evaluation = field(default_factory=dict)
    recent: tuple[Evaluation, ...] = ()
    best: BestRound | None = None
    failure: str | None = None
    at_work: AtWork | None = None
    moments: Moments | None = field(default=None, repr=False)
    wall_seconds: float = 0.0
    peak_bytes: int | None = None

    def evaluated(self, scores: Evaluation) -> RunState:
        """With the scores of its heads; validation decides whether they are the best so far."""
        if self.round == 0:
            return replace(self, last=scores, initial=scores)
        state = replace(self, last=scores, recent=(*self.recent, scores)[-RECENT:])
        found = scores.get("validation")
        if found is None:
            return state
        if self.best is not None and _rank(found) <= _rank(self.best.scores["validation"]):
            return state
        return replace(state, best=BestRound(self.round, scores, self.heads))


def _rank(scores: SetScores) -> tuple[float, float]:
    return scores.accuracy, -np.inf if scores.loss is None else -scores.loss


def _scores_to_json(evaluation: Evaluation) -> dict[str, Any]:
    return {
        name: [scores.loss, scores.accuracy, scores.count, scores.per_class]
        for name, scores in evaluation.items()
    }


def _scores_from_json(document: dict[str, Any]) -> Evaluation:
    return {
        name: SetScores(loss, accuracy, count, tuple((rows, right) for rows, right in per_class))
        for name, (loss, accuracy, count, per_class) in document.items()
    }


_PLAIN = (
    "round",
    "simulated_seconds",
    "counts",
    "download_bytes",
    "upload_bytes",
    "failure",
    "wall_seconds",
    "peak_bytes",
)


def state_to_bytes(state: RunState, metrics_bytes: int, pending: bytes) -> list[bytes]:
    """A checkpoint, piece by piece.

    Args:
        state: What to keep.
        metrics_bytes: Length of metrics.jsonl that is known to be durable.
        pending: The lines behind them.
    """
    best = state.best
    parts = [
        state.heads.astype("<f4", copy=False).tobytes(),
        b"" if best is None else best.heads.astype("<f4", copy=False).tobytes(),
        state.seen.astype(np.uint8).tobytes(),
        pending,
    ]
    work = state.at_work
    if work is not None:
        parts += [heads.astype("<f4", copy=False).tobytes() for heads in work.heads.values()]
    moments = state.moments
    if moments is not None:
        parts += [tensor.astype(_stored(tensor)).tobytes() for tensor in moments.tensors.values()]
    document = {name: getattr(state, name) for name in _PLAIN} | {
        "initial": _scores_to_json(state.initial),
        "last": _scores_to_json(state.last),
        "recent": [_scores_to_json(scores) for scores in state.recent],
        "best": None if best is None else [best.round, _scores_to_json(best.scores)],
        "at_work": None if work is None else [list(work.heads), work.tasks],
        "moments": None
        if moments is None
        else [moments.optimizer, {name: _stored(t) for name, t in moments.tensors.items()}],
        "metrics_bytes": metrics_bytes,
        "sizes": [len(part) for part in parts],
    }
    text = json.dumps(document, allow_nan=False).encode()
    pieces = [_HEAD.pack(_MAGIC, len(text)), text, *parts]
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return [*pieces, digest.digest()]


def state_from_bytes(content: bytes, where: str) -> tuple[RunState, int, bytes]:
    """The inverse of :func:`state_to_bytes`.

    Raises:
        StorageError: The bytes are not those that were written.
    """
    body, digest = content[:-32], content[-32:]
    if not body.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
        raise StorageError(
            "the checkpoint is damaged",
            where=where,
            hint="check the disk, then start the run again in another folder",
        )
    _, length = _HEAD.unpack_from(body)
    document = json.loads(body[_HEAD.size : _HEAD.size + length])
    position = _HEAD.size + length
    parts = []
    for size in document["sizes"]:
        parts.append(body[position : position + size])
        position += size
    heads, best_heads, seen, pending, *older = parts
    best = document["best"]
    later = len(document["moments"][1]) if document["moments"] else 0
    older, moments = older[: len(older) - later], older[len(older) - later :]
    state = RunState(
        heads=_vector(heads),
        seen=np.frombuffer(seen, np.uint8).astype(np.bool_),
        initial=_scores_from_json(document["initial"]),
        last=_scores_from_json(document["last"]),
        recent=tuple(_scores_from_json(scores) for scores in document["recent"]),
        best=None
        if best is None
        else BestRound(best[0], _scores_from_json(best[1]), _vector(best_heads)),
        at_work=_at_work(document["at_work"], older),
        moments=_moments(document["moments"], moments),
        **{name: document[name] for name in _PLAIN},
    )
    return state, document["metrics_bytes"], pending


def _at_work(document: list[Any] | None, older: list[bytes]) -> AtWork | None:
    if document is None:
        return None
    versions, tasks = document
    return AtWork(
        tasks=tuple(RunningTask(*task) for task in tasks),
        heads=dict(zip(versions, map(_vector, older), strict=True)),
    )


def _moments(document: list[Any] | None, contents: list[bytes]) -> Moments | None:
    if document is None:
        return None
    optimizer, kinds = document
    return Moments(
        ServerOptimizerName(optimizer),
        {
            name: np.frombuffer(content, kind).astype(np.dtype(kind).newbyteorder("="))
            for (name, kind), content in zip(kinds.items(), contents, strict=True)
        },
    )


def _stored(tensor: NDArray[Any]) -> str:
    """The type as which a moment's numbers lie in the file."""
    return "<i4" if tensor.dtype.kind == "i" else "<f4"


def _vector(content: bytes) -> Vector:
    return np.frombuffer(content, "<f4").astype(np.float32)
