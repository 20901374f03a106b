"""How much an update counts in the merge, as integers (docs/artifact.md, section 9).

The weight of an update has two parts. Its **count** n says as how many updates it counts: 1, or the
rows that the device trained on. A mean divides by the sum of the counts. Its **factor** w discounts
what is stale, and no division takes it back: FedBuff (Nguyen et al., Federated Learning with Buffered
Asynchronous Aggregation, AISTATS 2022) scales a late update down, it does not scale the others up.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

__all__ = ["FULL_FACTOR", "MOST_COUNTED", "PLAIN", "Weight", "staleness_factor"]

FACTOR_BITS = 32
FULL_FACTOR = 1 << FACTOR_BITS
"""The factor of an update that is not stale: 1 in fixed point."""

MOST_COUNTED = 1 << 27
"""The counts of a merge together are at most this: sums are then still good to 2^-30."""


@dataclass(frozen=True, slots=True)
class Weight:
    """The weight of one update.

    Attributes:
        count: n, as how many updates it counts, 1 .. ``MOST_COUNTED``.
        factor: w 2^32, 1 .. ``FULL_FACTOR``.

    Raises:
        ValueError: One of them is out of its range.
    """

    count: int = 1
    factor: int = FULL_FACTOR

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_COUNTED:
            raise ValueError(f"count {self.count}, expected 1 to {MOST_COUNTED}")
        if not 1 <= self.factor <= FULL_FACTOR:
            raise ValueError(f"factor {self.factor}, expected 1 to {FULL_FACTOR}")

    @property
    def share(self) -> float:
        """w, exactly."""
        return self.factor / FULL_FACTOR


PLAIN = Weight()
"""Of an update that counts once and is not stale."""


def staleness_factor(staleness: int) -> int:
    """w = 1 / sqrt(1 + t) in fixed point: round(2^32 / sqrt(1 + t)), exactly.

    In integers: round(x) = (floor(2 x) + 1) div 2, and floor(2 x) is the integer square root of
    2^66 div (1 + t). Every language gets the same.

    Args:
        staleness: t, how many versions were made since the one that the update started from.

    Raises:
        ValueError: It is negative.

    >>> [staleness_factor(t) / FULL_FACTOR for t in (0, 3, 99)]
    [1.0, 0.5, 0.10000000009313226]
    """
    if staleness < 0:
        raise ValueError(f"staleness {staleness}")
    return max(1, (isqrt((1 << 2 * FACTOR_BITS + 2) // (1 + staleness)) + 1) // 2)
