"""What a local round knows between two steps: enough to go on bitwise as if nothing had happened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan_edge.artifact.tensor_file import (
    HEADS_BOUNDS,
    Expected,
    read_header,
    read_tensors,
    write_tensors,
)
from ravan_edge.errors import ArtifactError
from ravan_edge.methods import HeadIndices, Vector
from ravan_edge.training.optimisers import OptimiserState

__all__ = ["RoundState", "load_state", "save_state"]

_FORMAT = {"format": "ravan-round", "schema": "1"}
_COUNTERS = ("steps", "examples", "tokens", "counted", "correct", "optimiser_steps")
_MOMENT = "moment."
_HEADS = ".heads"
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True, eq=False)
class RoundState:
    """A mid-round checkpoint.

    Attributes:
        start: Float32 [parameters], the heads of the version the round started from.
        parameters: Float32 [parameters], H and s now.
        optimiser: Moments and their step counter.
        losses: Float32 [steps], mean loss of each finished step.
        examples: Rows seen.
        tokens: Tokens seen, padding not counted.
        counted: Rows (or tokens) whose label counted.
        correct: How many of them were right.
        trained: Chosen heads by layer; None: everything trains.
    """

    start: Vector
    parameters: Vector
    optimiser: OptimiserState
    losses: Vector
    examples: int
    tokens: int
    counted: int
    correct: int
    trained: Mapping[str, HeadIndices] | None

    @property
    def steps(self) -> int:
        """How many steps are done."""
        return len(self.losses)


def save_state(path: Path, state: RoundState, configuration: str) -> None:
    """Write a checkpoint atomically.

    Args:
        path: Its folder must exist.
        state: What to save.
        configuration: A digest of all that the rest of the round depends on; see :func:`load_state`.

    Raises:
        StorageError: The disk is full, or the like.
    """
    tensors: dict[str, NDArray[Any]] = {
        "start": state.start,
        "parameters": state.parameters,
        "losses": state.losses,
    }
    for name, moment in state.optimiser.moments.items():
        tensors[f"{_MOMENT}{name}"] = moment
    for layer, heads in (state.trained or {}).items():
        tensors[f"{layer}{_HEADS}"] = heads
    counters = (
        state.steps,
        state.examples,
        state.tokens,
        state.counted,
        state.correct,
        state.optimiser.steps,
    )
    metadata = dict(zip(_COUNTERS, map(str, counters), strict=True))
    metadata |= {**_FORMAT, "configuration": configuration}
    metadata["chosen"] = "none" if state.trained is None else "some"
    write_tensors(path, tensors, metadata)


def load_state(
    path: Path, empty: RoundState, layers: Mapping[str, int], configuration: str
) -> RoundState | None:
    """Read a checkpoint back.

    Args:
        path: Written by :func:`save_state`.
        empty: A state of the same shapes, such as the one before the first step.
        layers: Heads h of each layer.
        configuration: Must be the one it was saved with.

    Returns:
        The state; None if it was saved under another configuration.

    Raises:
        TensorFileError: The file is not whole, or not a checkpoint of these shapes.
        ArtifactError: Its counters make no sense.
        ArtifactNotFoundError: There is no such file.
        StorageError: It cannot be read.
    """
    where = str(path)
    header = read_header(path, HEADS_BOUNDS)
    metadata = header.metadata
    if any(metadata.get(key) != value for key, value in _FORMAT.items()):
        raise _bad("not a checkpoint of a local round", where)
    if metadata.get("configuration") != configuration:
        return None
    numbers = [metadata.get(name, "") for name in _COUNTERS]
    if not all(_DECIMAL.fullmatch(number) for number in numbers):
        raise _bad("a counter in its metadata is no decimal number", where)
    steps, examples, tokens, counted, correct, optimiser_steps = map(int, numbers)
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "start": ("F32", empty.start.shape),
        "parameters": ("F32", empty.start.shape),
        "losses": ("F32", (steps,)),
    }
    moments = [f"{_MOMENT}{name}" for name in empty.optimiser.moments]
    expected |= dict.fromkeys(moments, ("F32", empty.start.shape))
    chosen = metadata.get("chosen") == "some"
    if chosen:
        expected |= _expected_heads(header.specs, layers, where)
    tensors = read_tensors(path, HEADS_BOUNDS, expected)
    trained = None
    if chosen:
        trained = {layer: tensors[f"{layer}{_HEADS}"] for layer in layers}
        for layer, heads in trained.items():
            if heads[0] < 0 or heads[-1] >= layers[layer] or np.any(heads[1:] <= heads[:-1]):
                raise _bad(f"{layer}: {heads.tolist()} are no heads of it", where)
    return RoundState(
        start=tensors["start"],
        parameters=tensors["parameters"],
        optimiser=OptimiserState(
            optimiser_steps, {name.removeprefix(_MOMENT): tensors[name] for name in moments}
        ),
        losses=tensors["losses"],
        examples=examples,
        tokens=tokens,
        counted=counted,
        correct=correct,
        trained=trained,
    )


def _expected_heads(specs: Mapping[str, Any], layers: Mapping[str, int], where: str) -> Expected:
    """The shape of each layer's chosen heads: as many as the file says, but 1 .. h of them."""
    expected = {}
    for layer, heads in layers.items():
        spec = specs.get(f"{layer}{_HEADS}")
        if spec is None or len(spec.shape) != 1 or not 1 <= spec.shape[0] <= heads:
            raise _bad(f"layer {layer!r} has no list of 1 to {heads} heads", where)
        expected[f"{layer}{_HEADS}"] = ("I32", spec.shape)
    return expected


def _bad(message: str, where: str) -> ArtifactError:
    return ArtifactError(message, where=where, hint="remove the file; the training starts anew")
