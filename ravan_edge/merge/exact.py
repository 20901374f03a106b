"""The exact mean: integer sums, so that the order of arrival cannot matter (docs/artifact.md, section 9)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravan_edge.errors import NumericsError
from ravan_edge.methods.layout import Vector

__all__ = ["DEFAULT_BOUND_EXPONENT", "ExactSum", "MergeScale"]

DEFAULT_BOUND_EXPONENT = 6
_SUM_BITS = 62


@dataclass(frozen=True, slots=True)
class MergeScale:
    """The fixed-point scale of one round: q = round(D * 2^power), |D| < 2^bound_exponent.

    >>> MergeScale.for_cohort(3).power
    54
    """

    power: int
    bound_exponent: int = DEFAULT_BOUND_EXPONENT

    @classmethod
    def for_cohort(
        cls, most_devices: int, bound_exponent: int = DEFAULT_BOUND_EXPONENT
    ) -> MergeScale:
        """The finest scale with which ``most_devices`` differences cannot overflow an int64."""
        if most_devices < 1:
            raise ValueError(f"a cohort of {most_devices} devices")
        return cls(_SUM_BITS - bound_exponent - (most_devices - 1).bit_length(), bound_exponent)


@dataclass(frozen=True)
class ExactSum:
    """A running sum of differences; one accumulator, whatever the number of devices.

    Attributes:
        scale: The round's fixed-point scale.
        total: Int64 [parameters], the sum of the scaled differences.
        trainers: Int32 [parameters], how many devices trained each number.
    """

    scale: MergeScale
    total: NDArray[np.int64]
    trainers: NDArray[np.int32]

    @classmethod
    def empty(cls, parameters: int, scale: MergeScale) -> ExactSum:
        """The sum of no differences."""
        return cls(scale, np.zeros(parameters, np.int64), np.zeros(parameters, np.int32))

    def add(self, difference: Vector, mask: NDArray[np.bool_] | None) -> None:
        """Add one device's difference, in place.

        Args:
            difference: Float32 [parameters].
            mask: Bool [parameters], which numbers it trained; None: all of them.

        Raises:
            NumericsError: A number is NaN, infinite or not below the bound. The sum is unchanged.
        """
        bound = 2.0**self.scale.bound_exponent
        largest = float(np.abs(difference).max(initial=0.0))
        if not largest < bound:  # also true for NaN
            raise NumericsError(
                f"an update holds {largest}, expected numbers below {bound:g}",
                hint="lower the learning rate",
            )
        scaled = np.ldexp(difference.astype(np.float64), self.scale.power)
        np.rint(scaled, out=scaled)
        terms = scaled.astype(np.int64)
        if mask is None:
            np.add(self.total, terms, out=self.total)
            np.add(self.trainers, 1, out=self.trainers)
        else:
            np.add(self.total, terms, out=self.total, where=mask)
            np.add(self.trainers, mask, out=self.trainers, casting="unsafe")

    def combine(self, other: ExactSum) -> None:
        """Add a sum that somebody else made of other devices of the same round, in place."""
        if other.scale != self.scale:
            raise ValueError(f"scale {other.scale} cannot be added to {self.scale}")
        np.add(self.total, other.total, out=self.total)
        np.add(self.trainers, other.trainers, out=self.trainers)

    def apply(self, heads: Vector) -> Vector:
        """The merged heads: heads + mean of the differences; bits stay where nobody trained.

        H <- float32(float64(H) + float64(S) 2^-p / count)
        """
        trained = self.trainers > 0
        mean = np.ldexp(self.total.astype(np.float64), -self.scale.power)
        mean /= np.maximum(self.trainers, 1)
        merged = (heads.astype(np.float64) + mean).astype(np.float32)
        return np.where(trained, merged, heads)
