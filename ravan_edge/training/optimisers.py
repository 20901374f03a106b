"""Optimisers as pairs of pure functions, ``init`` and ``apply``, on one float32 vector.

State is frozen and never written to again: keeping a state is a checkpoint. ``apply`` allocates the
new arrays and works in place on those only. Equal to ``torch.optim`` (weight decay 0) step by step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np

from ravan_edge.methods import Vector

__all__ = ["Adam", "Optimiser", "OptimiserName", "OptimiserState", "Sgd"]


class OptimiserName(StrEnum):
    """The optimisers a device has."""

    ADAM = "adam"
    SGD = "sgd"


@dataclass(frozen=True, slots=True, eq=False)
class OptimiserState:
    """What an optimiser remembers between steps.

    Attributes:
        steps: How many steps were taken.
        moments: By name, float32 [parameters] each.
    """

    steps: int
    moments: Mapping[str, Vector]


class Optimiser(Protocol):
    """The interface of all optimisers."""

    def init(self, parameters: int) -> OptimiserState:
        """The state before the first step on that many numbers."""
        ...

    def apply(
        self, state: OptimiserState, parameters: Vector, gradient: Vector, rate: Vector | float
    ) -> tuple[OptimiserState, Vector]:
        """One step.

        Args:
            state: From ``init`` or the last ``apply``.
            parameters: Float32 [parameters].
            gradient: Float32 [parameters], of the mean loss.
            rate: The learning rate, one for all numbers or float32 [parameters].

        Returns:
            The next state and the new parameters. Where gradients were always 0 the parameters keep
            their bits.
        """
        ...


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam (Kingma, Ba: arXiv 1412.6980, algorithm 1) with bias correction.

    m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
    x <- x - rate (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon)
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def init(self, parameters: int) -> OptimiserState:
        """Both moments zero."""
        zero = np.zeros(parameters, np.float32)
        return OptimiserState(0, {"first": zero, "second": zero})

    def apply(
        self, state: OptimiserState, parameters: Vector, gradient: Vector, rate: Vector | float
    ) -> tuple[OptimiserState, Vector]:
        """One step of Adam; see :class:`Optimiser`."""
        steps = state.steps + 1
        scratch = gradient * np.float32(1.0 - self.beta1)
        first = state.moments["first"] * np.float32(self.beta1)
        first += scratch
        np.multiply(gradient, gradient, out=scratch)
        scratch *= np.float32(1.0 - self.beta2)
        second = state.moments["second"] * np.float32(self.beta2)
        second += scratch
        np.sqrt(second, out=scratch)
        scratch /= np.float32(math.sqrt(1.0 - self.beta2**steps))
        scratch += np.float32(self.epsilon)
        np.divide(first, scratch, out=scratch)
        scratch *= np.float32(1.0 / (1.0 - self.beta1**steps))
        scratch *= _float32(rate)
        return OptimiserState(steps, {"first": first, "second": second}), parameters - scratch


@dataclass(frozen=True, slots=True)
class Sgd:
    """Stochastic gradient descent with heavy-ball momentum, as ``torch.optim.SGD``.

    u <- momentum u + g (at the first step u <- g)        x <- x - rate u
    """

    momentum: float = 0.9

    def init(self, parameters: int) -> OptimiserState:
        """No velocity: with u = 0 the first step is u <- g."""
        return OptimiserState(0, {"velocity": np.zeros(parameters, np.float32)})

    def apply(
        self, state: OptimiserState, parameters: Vector, gradient: Vector, rate: Vector | float
    ) -> tuple[OptimiserState, Vector]:
        """One step of SGD; see :class:`Optimiser`."""
        velocity = state.moments["velocity"] * np.float32(self.momentum)
        velocity += gradient
        return (
            OptimiserState(state.steps + 1, {"velocity": velocity}),
            parameters - velocity * _float32(rate),
        )


def _float32(rate: Vector | float) -> Vector | np.float32:
    return np.float32(rate) if isinstance(rate, float) else rate
