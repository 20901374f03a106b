"""When updates become a version, and how much each counts: the rule that server and simulator share.

A **synchronous** round gives tasks to a cohort and merges it. An **asynchronous** one (FedBuff: Nguyen
et al., Federated Learning with Buffered Asynchronous Aggregation, AISTATS 2022, Algorithm 1) has no
rounds for a device: it trains from the version that is the latest when it starts, and any K updates
that have arrived make the next one, each scaled by 1 / sqrt(1 + t).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ravan_edge.errors import UsageError
from ravan_edge.merge.exact import MergeScale
from ravan_edge.merge.weight import FULL_FACTOR, MOST_COUNTED, PLAIN, Weight, staleness_factor
from ravan_edge.training.options import check_options, option, option_values

__all__ = ["RoundMode", "RoundRule", "Weighting"]

_ROUNDS = "Rounds"


class RoundMode(StrEnum):
    """Whether devices wait for each other."""

    SYNC = "sync"
    ASYNC = "async"


class Weighting(StrEnum):
    """As how many an update counts."""

    UNIFORM = "uniform"
    EXAMPLES = "examples"


@dataclass(frozen=True)
class RoundRule:
    """The rule, and its options.

    Raises:
        UsageError: A number is out of range, or an option of the other mode; names the option.
    """

    mode: RoundMode = option(
        RoundMode.SYNC,
        "sync: a cohort trains and is merged. async: devices train without waiting for each other, and "
        "every --buffer updates make a version.",
        group=_ROUNDS,
    )
    buffer: int | None = option(
        None,
        "With --mode async: updates that make a version. Default: as many as a synchronous round merges.",
        minimum=1,
        maximum=1_000_000,
        group=_ROUNDS,
    )
    max_staleness: int | None = option(
        None,
        "With --mode async: an update that started more versions ago is not merged. Default: no limit.",
        minimum=0,
        maximum=1_000_000,
        group=_ROUNDS,
    )
    weighting: Weighting = option(
        Weighting.UNIFORM,
        "uniform: updates count alike. examples: each as often as rows were trained on for it.",
        group=_ROUNDS,
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.is_async:
            return
        for name, value in (("--buffer", self.buffer), ("--max-staleness", self.max_staleness)):
            if value is not None:
                raise UsageError(
                    f"{value} without --mode async: updates of a synchronous round are never stale",
                    where=name,
                    hint=f"add --mode async, or leave {name} out",
                )

    @property
    def is_async(self) -> bool:
        """Whether devices do not wait for each other."""
        return self.mode is RoundMode.ASYNC

    def goal(self, cohort: int) -> int:
        """K, the updates that make a version.

        Args:
            cohort: The updates of a synchronous round.
        """
        return cohort if self.buffer is None else self.buffer

    def takes(self, staleness: int) -> bool:
        """Whether an update of this staleness is merged.

        Args:
            staleness: t, how many versions were made since the one that it started from.
        """
        return self.max_staleness is None or staleness <= self.max_staleness

    def weight(self, examples: int, staleness: int, most_examples: int) -> Weight:
        """How much an update counts.

        Args:
            examples: Rows that it was trained on, each time counted: what the device says.
            staleness: t.
            most_examples: The most that there can be, local steps x batch size.
        """
        count = 1
        if self.weighting is Weighting.EXAMPLES:
            count = min(max(examples, 1), most_examples)  # nobody counts more than is possible
        factor = staleness_factor(staleness)
        return PLAIN if (count, factor) == (1, FULL_FACTOR) else Weight(count, factor)

    def scale(self, cohort: int, most_examples: int) -> MergeScale:
        """The fixed-point scale of a merge.

        Args:
            cohort: As for :meth:`goal`.
            most_examples: As for :meth:`weight`.

        Raises:
            UsageError: Updates could count more than a merge can add up.
        """
        counted = self.goal(cohort)
        if self.weighting is Weighting.EXAMPLES:
            counted *= most_examples
        if counted > MOST_COUNTED:
            raise UsageError(
                f"examples: {self.goal(cohort)} updates of {most_examples} rows are more than the "
                f"{MOST_COUNTED} rows that a merge can count",
                where="--weighting",
                hint="use uniform, or fewer --local-steps",
            )
        return MergeScale.for_cohort(counted)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: enumerations as their text."""
        return option_values(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RoundRule:
        """The inverse of :meth:`as_dict`."""
        return cls(
            **{
                **values,
                "mode": RoundMode(values["mode"]),
                "weighting": Weighting(values["weighting"]),
            }
        )
