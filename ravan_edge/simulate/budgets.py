"""How many heads each device may train: ``--head-budgets 1:0.25,3:0.5,4:0.25``."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ravan_edge.errors import UsageError
from ravan_edge.generator import Purpose, Stream

__all__ = ["HeadBudgets", "parse_head_budgets"]

_WHERE = "--head-budgets"
_HINT = "write HEADS:SHARE pairs whose shares sum to 1, such as 1:0.25,3:0.5,4:0.25"
_PAIR = re.compile(r"([0-9]{1,6}):([0-9]*\.?[0-9]+)")


@dataclass(frozen=True, slots=True)
class HeadBudgets:
    """Shares of the devices by the number of heads they train in each layer.

    Args:
        shares: (K, share), K ascending, each share above 0, summing to 1.
    """

    shares: tuple[tuple[int, float], ...]

    def __str__(self) -> str:
        return ",".join(f"{heads}:{share:g}" for heads, share in self.shares)

    def deal(self, devices: int, seed: int) -> NDArray[np.int32]:
        """K of each device for the whole run, int32 [devices].

        The places of each budget are ``devices * share`` rounded down; those left over go to the
        largest remainders (of equal ones to the smaller K). Devices take them in the order of
        permutation(devices) of purpose 5.

        >>> parse_head_budgets("1:0.5,4:0.5").deal(6, seed=0).tolist()
        [4, 1, 4, 1, 1, 4]
        """
        exact = np.array([share * devices for _, share in self.shares])
        # 0.29 * 100 is 28.999...: a hair below a whole number is that number
        places = np.floor(exact + 1e-9).astype(np.int64)
        order = np.argsort(places - exact, kind="stable")
        places[order[: devices - int(places.sum())]] += 1
        ranked = np.repeat([heads for heads, _ in self.shares], places).astype(np.int32)
        dealt = np.empty(devices, dtype=np.int32)
        dealt[Stream(seed, Purpose.HEAD_BUDGET).permutation(devices)] = ranked
        return dealt


def parse_head_budgets(text: str) -> HeadBudgets:
    """Parse ``K:SHARE,K:SHARE,...``.

    Raises:
        UsageError: Not such a list, a K twice or below 1, or shares that do not sum to 1.

    >>> str(parse_head_budgets("4:0.25, 1:0.75"))
    '1:0.75,4:0.25'
    """
    shares: dict[int, float] = {}
    for part in text.replace(" ", "").split(","):
        match = _PAIR.fullmatch(part)
        if match is None:
            raise UsageError(f"{part!r} is not HEADS:SHARE", where=_WHERE, hint=_HINT)
        heads, share = int(match[1]), float(match[2])
        if heads < 1 or share <= 0:
            raise UsageError(f"{part!r}: both must be above 0", where=_WHERE, hint=_HINT)
        if heads in shares:
            raise UsageError(f"{heads} heads are listed twice", where=_WHERE, hint=_HINT)
        shares[heads] = share
    total = sum(shares.values())
    if abs(total - 1) > 1e-6:
        raise UsageError(f"the shares sum to {total:g}, expected 1", where=_WHERE, hint=_HINT)
    return HeadBudgets(tuple(sorted(shares.items())))
