"""What a server makes of the mean difference: a step of an optimiser that remembers earlier rounds.

Reddi et al., Adaptive Federated Optimization, ICLR 2021, algorithm 2 (FedAvgM, FedAdam, FedYogi): the mean
difference, turned round, is the gradient of an optimiser on the server. State is frozen and never written to
again. Where nobody trained, values, moments and the count of steps keep their bits.

All of it is computed in float64 and kept in float32, each operation by itself and in the order written, so
every machine gets the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ravan_edge.methods import Vector

__all__ = ["Adam", "Moments", "Momentum", "ServerOptimizer", "ServerOptimizerName", "Yogi"]

Wide = NDArray[np.float64]
Mask = NDArray[np.bool_]


class ServerOptimizerName(StrEnum):
    """The optimisers of a server."""

    NONE = "none"
    MOMENTUM = "momentum"
    ADAM = "adam"
    YOGI = "yogi"


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """What an optimiser remembers between merges.

    Attributes:
        optimizer: Whose they are.
        tensors: By name, float32 or int32 [parameters] each.
    """

    optimizer: ServerOptimizerName
    tensors: Mapping[str, NDArray[np.float32] | NDArray[np.int32]]


class ServerOptimizer(Protocol):
    """The interface of all of them."""

    def init(self, parameters: int) -> Moments:
        """What is remembered before the first merge."""
        ...

    def apply(self, state: Moments, difference: Wide, trained: Mask) -> tuple[Moments, Wide]:
        """One step.

        Args:
            state: From ``init`` or the last ``apply``.
            difference: D, the merged difference, float64 [parameters].
            trained: Bool [parameters], which numbers are merged.

        Returns:
            What is remembered next, and what to add to the heads: float64 [parameters], 0 where nothing is
            merged.
        """
        ...


@dataclass(frozen=True, slots=True)
class Momentum:
    """Heavy-ball momentum (FedAvgM), as ``torch.optim.SGD`` on -D.

    u <- float32(momentum u + D)        H <- H + rate u
    """

    rate: float
    momentum: float

    def init(self, parameters: int) -> Moments:
        """No velocity."""
        return Moments(ServerOptimizerName.MOMENTUM, {"velocity": np.zeros(parameters, np.float32)})

    def apply(self, state: Moments, difference: Wide, trained: Mask) -> tuple[Moments, Wide]:
        """One step; see :class:`ServerOptimizer`."""
        velocity = _wide(state.tensors["velocity"])
        velocity *= self.momentum
        velocity += difference
        kept = _kept(velocity, state.tensors["velocity"], trained)
        step = _wide(kept)
        step *= self.rate
        return Moments(state.optimizer, {"velocity": kept}), _only(step, trained)


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam with bias correction, as ``torch.optim.Adam`` on -D; each number has its own count of steps t.

    m <- float32(b1 m + (1 - b1) D)        v <- float32(b2 v + (1 - b2) D^2)
    H <- H + rate (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon)
    """

    rate: float
    beta1: float
    beta2: float
    epsilon: float

    def init(self, parameters: int) -> Moments:
        """Both moments zero."""
        zero = np.zeros(parameters, np.float32)
        steps = np.zeros(parameters, np.int32)
        return Moments(ServerOptimizerName.ADAM, {"first": zero, "second": zero, "steps": steps})

    def apply(self, state: Moments, difference: Wide, trained: Mask) -> tuple[Moments, Wide]:
        """One step; see :class:`ServerOptimizer`."""
        steps = state.tensors["steps"] + trained.astype(np.int32)
        first = _moment(state.tensors["first"], self.beta1, difference, trained)
        second = _moment(state.tensors["second"], self.beta2, difference * difference, trained)
        step = _wide(first)
        step /= _correction(self.beta1, steps)
        scale = _wide(second)
        scale /= _correction(self.beta2, steps)
        np.sqrt(scale, out=scale)
        scale += self.epsilon
        step /= scale
        step *= self.rate
        tensors = {"first": first, "second": second, "steps": steps}
        return Moments(state.optimizer, tensors), _only(step, trained)


@dataclass(frozen=True, slots=True)
class Yogi:
    """FedYogi as in algorithm 2 of the paper, with v = epsilon^2 at first and no bias correction.

    m <- float32(b1 m + (1 - b1) D)        v <- float32(v - (1 - b2) D^2 sign(v - D^2))
    H <- H + rate m / (sqrt(v) + epsilon)
    """

    rate: float
    beta1: float
    beta2: float
    epsilon: float

    def init(self, parameters: int) -> Moments:
        """The first moment zero, the second epsilon^2: the paper asks for at least that."""
        zero = np.zeros(parameters, np.float32)
        least = np.full(parameters, self.epsilon * self.epsilon, np.float32)
        return Moments(ServerOptimizerName.YOGI, {"first": zero, "second": least})

    def apply(self, state: Moments, difference: Wide, trained: Mask) -> tuple[Moments, Wide]:
        """One step; see :class:`ServerOptimizer`."""
        first = _moment(state.tensors["first"], self.beta1, difference, trained)
        square = difference * difference
        spread = _wide(state.tensors["second"])
        sign = np.sign(spread - square)
        square *= 1.0 - self.beta2
        square *= sign
        spread -= square
        second = _kept(spread, state.tensors["second"], trained)
        scale = np.sqrt(_wide(second))
        scale += self.epsilon
        step = _wide(first)
        step /= scale
        step *= self.rate
        return Moments(state.optimizer, {"first": first, "second": second}), _only(step, trained)


def _wide(values: NDArray[np.float32] | NDArray[np.int32]) -> Wide:
    return values.astype(np.float64)


def _moment(
    before: NDArray[np.float32] | NDArray[np.int32], decay: float, value: Wide, trained: Mask
) -> Vector:
    """float32(decay m + (1 - decay) x)."""
    moment = _wide(before)
    moment *= decay
    moment += value * (1.0 - decay)
    return _kept(moment, before, trained)


def _kept(after: Wide, before: NDArray[np.float32] | NDArray[np.int32], trained: Mask) -> Vector:
    """Float32; the old bits where nobody trained."""
    kept: Vector = before.astype(np.float32)
    np.copyto(kept, after, where=trained, casting="same_kind")
    return kept


def _correction(beta: float, steps: NDArray[np.float32] | NDArray[np.int32]) -> Wide:
    """1 - beta^t, as Python computes it for each t that occurs; 1 where there was no step."""
    found, places = np.unique(steps, return_inverse=True)
    values = np.array([1.0 - beta ** int(t) if t else 1.0 for t in found.tolist()])
    return values[places]


def _only(step: Wide, trained: Mask) -> Wide:
    step[~trained] = 0.0
    return step
