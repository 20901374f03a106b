"""Who takes part in a round: cohort and drop-outs, from the generator of docs/generator.md."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ravan_edge.generator import Purpose, Stream, philox4x32

__all__ = ["device_uniforms", "drop_outs", "sample_cohort"]


def sample_cohort(
    eligible: NDArray[np.int64], per_round: int, *, seed: int, round: int
) -> NDArray[np.int64]:
    """The devices of a round, ascending, int64 [per_round].

    Args:
        eligible: Devices that have data, ascending, int64 [eligible].
        per_round: How many, at most ``len(eligible)``.
        seed, round: Address of the stream (purpose 3): choose(per_round, eligible).
    """
    chosen = Stream(seed, Purpose.COHORT, round=round).choose(per_round, len(eligible))
    return eligible[chosen]


def device_uniforms(
    seed: int, purpose: Purpose, round: int, devices: NDArray[np.int64]
) -> NDArray[np.float64]:
    """``Stream(seed, purpose, round, d).uniform(2)`` for many devices d at once.

    Returns:
        Float64 [devices, 2] in [0, 1).

    >>> many = device_uniforms(5, Purpose.DROP_OUT, 3, np.array([9]))
    >>> many[0].tolist() == Stream(5, Purpose.DROP_OUT, 3, 9).uniform(2).tolist()
    True
    """
    counter = np.zeros((len(devices), 4), dtype=np.uint32)
    counter[:, 1] = round
    counter[:, 2] = devices
    counter[:, 3] = int(purpose) << 24
    words = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32)).astype(np.uint64)
    high = words[:, 0::2] >> np.uint64(5)
    low = words[:, 1::2] >> np.uint64(6)
    return (high * np.uint64(1 << 26) + low).astype(np.float64) / float(1 << 53)


def drop_outs(
    cohort: NDArray[np.int64], probability: float, *, seed: int, round: int
) -> NDArray[np.bool_]:
    """Which devices of a cohort vanish after their download, bool [cohort]."""
    if probability == 0.0:
        return np.zeros(len(cohort), dtype=np.bool_)
    return device_uniforms(seed, Purpose.DROP_OUT, round, cohort)[:, 0] < probability
