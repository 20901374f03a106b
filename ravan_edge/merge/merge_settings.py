"""How updates become a version, beyond the plain mean: the options that server and simulator share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ravan_edge.errors import UsageError
from ravan_edge.merge.rule import RoundRule, Weighting
from ravan_edge.merge.server_optimizer import (
    Adam,
    Momentum,
    ServerOptimizer,
    ServerOptimizerName,
    Yogi,
)
from ravan_edge.training.options import (
    check_options,
    option,
    option_infos,
    option_name,
    option_values,
)

__all__ = ["MergeName", "MergeSettings"]

_MERGE = "Merge"


class MergeName(StrEnum):
    """The rules that make one difference of many."""

    MEAN = "mean"
    MEDIAN = "median"
    TRIMMED_MEAN = "trimmed-mean"
    KRUM = "krum"
    MULTI_KRUM = "multi-krum"
    GEOMETRIC_MEDIAN = "geometric-median"


_KRUMS = {MergeName.KRUM, MergeName.MULTI_KRUM}
_ASK_HOW_MANY = {MergeName.TRIMMED_MEAN, *_KRUMS}
_ADAPTIVE = {ServerOptimizerName.ADAM, ServerOptimizerName.YOGI}
_OPTIMIZERS_WITH = {
    "server_lr": {ServerOptimizerName.MOMENTUM, *_ADAPTIVE},
    "server_momentum": {ServerOptimizerName.MOMENTUM},
    "server_beta1": _ADAPTIVE,
    "server_beta2": _ADAPTIVE,
    "server_epsilon": _ADAPTIVE,
}
_RATES = {ServerOptimizerName.MOMENTUM: 1.0}
_ADAPTIVE_RATE = 0.01


@dataclass(frozen=True)
class MergeSettings:
    """The rule, the most one device can move, and what the server makes of the result.

    Raises:
        UsageError: A number is out of range, one is missing, or an option of another rule; names the option.
    """

    merge: MergeName = option(
        MergeName.MEAN,
        "How the differences of devices become one. All but mean bear devices that send whatever they like; "
        "each head by itself.",
        group=_MERGE,
    )
    byzantine: int | None = option(
        None,
        "How many such devices the rule bears. Needed with trimmed-mean, krum and multi-krum; with median "
        "and geometric-median it says how many devices must have trained a head. Default there: 0.",
        minimum=0,
        maximum=1_000_000,
        group=_MERGE,
    )
    max_norm: float | None = option(
        None,
        "Largest norm of a device's whole difference; longer ones are scaled down to it. Default: no limit.",
        above=0,
        maximum=1e9,
        group=_MERGE,
    )
    server_optimizer: ServerOptimizerName = option(
        ServerOptimizerName.NONE,
        "What the server makes of the merged difference: none adds it.",
        group=_MERGE,
    )
    server_lr: float | None = option(
        None,
        "The server's learning rate. Default: 1 with momentum, 0.01 with adam and yogi.",
        above=0,
        maximum=1000,
        group=_MERGE,
    )
    server_momentum: float = option(
        0.9, "With --server-optimizer momentum.", minimum=0, maximum=0.9999, group=_MERGE
    )
    server_beta1: float = option(
        0.9,
        "Decay of the first moment, with --server-optimizer adam or yogi.",
        minimum=0,
        maximum=0.9999,
        group=_MERGE,
    )
    server_beta2: float = option(
        0.99,
        "Decay of the second moment, with --server-optimizer adam or yogi.",
        minimum=0,
        maximum=0.999999,
        group=_MERGE,
    )
    server_epsilon: float = option(
        1e-3,
        "The paper's tau: what is added to the root of the second moment.",
        above=0,
        maximum=1,
        group=_MERGE,
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.merge is MergeName.MEAN and self.byzantine is not None:
            raise UsageError(
                f"{self.byzantine} with --merge mean: it bears none",
                where="--byzantine",
                hint="choose another --merge, or leave --byzantine out",
            )
        if self.merge in _ASK_HOW_MANY and self.byzantine is None:
            raise UsageError(
                f"is needed with --merge {self.merge}: how many devices may send whatever they like",
                where="--byzantine",
                hint="such as --byzantine 1; or use --merge median, which bears as many as can be",
            )
        for item, _ in option_infos(self):
            takes = _OPTIMIZERS_WITH.get(item.name)
            value = getattr(self, item.name)
            if takes is not None and value != item.default and self.server_optimizer not in takes:
                raise UsageError(
                    f"{value:g} with --server-optimizer {self.server_optimizer}",
                    where=option_name(item.name),
                    hint=f"leave it out, or choose --server-optimizer {' or '.join(sorted(takes))}",
                )

    @property
    def is_robust(self) -> bool:
        """Whether the rule must see all differences beside each other."""
        return self.merge is not MergeName.MEAN

    @property
    def is_plain(self) -> bool:
        """Whether the merge is nothing but the exact mean."""
        return self == MergeSettings()

    @property
    def bears(self) -> int:
        """F, how many attackers."""
        return self.byzantine or 0

    @property
    def least_trainers(self) -> int:
        """Devices that must have trained a head for the rule to change it."""
        if not self.is_robust:
            return 1
        return 2 * self.bears + (3 if self.merge in _KRUMS else 1)

    def check(self, rule: RoundRule, updates: int, where: str) -> None:
        """Refuse what cannot work with the rounds.

        Args:
            rule: Of the rounds.
            updates: The fewest that are merged.
            where: The option that says so.

        Raises:
            UsageError: Names the option.
        """
        if not self.is_robust:
            return
        if rule.weighting is not Weighting.UNIFORM:
            raise UsageError(
                f"{rule.weighting} with --merge {self.merge}: what devices say of their rows could decide it",
                where="--weighting",
                hint="use uniform, or --merge mean",
            )
        if updates < self.least_trainers:
            raise UsageError(
                f"--merge {self.merge} that bears {self.bears} needs {self.least_trainers} updates, and "
                f"{updates} may be all there are",
                where="--byzantine" if self.bears else "--merge",
                hint=f"use a {where} of at least {self.least_trainers}"
                + (", or a smaller --byzantine" if self.bears else ", or another --merge"),
            )

    def optimizer(self) -> ServerOptimizer | None:
        """The optimiser; None: the difference is added."""
        name = self.server_optimizer
        if name is ServerOptimizerName.NONE:
            return None
        rate = _RATES.get(name, _ADAPTIVE_RATE) if self.server_lr is None else self.server_lr
        if name is ServerOptimizerName.MOMENTUM:
            return Momentum(rate, self.server_momentum)
        kind = Adam if name is ServerOptimizerName.ADAM else Yogi
        return kind(rate, self.server_beta1, self.server_beta2, self.server_epsilon)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: enumerations as their text."""
        return option_values(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MergeSettings:
        """The inverse of :meth:`as_dict`."""
        return cls(
            **{
                **values,
                "merge": MergeName(values["merge"]),
                "server_optimizer": ServerOptimizerName(values["server_optimizer"]),
            }
        )
