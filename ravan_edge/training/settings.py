"""The settings of a local round. Every command that trains makes its options from this class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ravan_edge.artifact.manifest import Role
from ravan_edge.errors import UsageError
from ravan_edge.methods import HeadScore, ParameterLayout, Vector
from ravan_edge.training.optimisers import Adam, Optimiser, OptimiserName, Sgd
from ravan_edge.training.options import check_options, option, option_name, option_values

__all__ = ["LocalSettings"]


@dataclass(frozen=True)
class LocalSettings:
    """How one device trains in one round.

    Raises:
        UsageError: A number is out of range; names the option.

    >>> LocalSettings(lr=-1.0)
    Traceback (most recent call last):
    ravan_edge.errors.UsageError: --lr: -1.0 is out of range, expected more than 0 and at most 1000. ...
    """

    local_steps: int = option(
        50, "Mini-batches a device trains on in a round.", minimum=1, maximum=10_000_000
    )
    batch_size: int = option(16, "Rows of a mini-batch.", minimum=1, maximum=65_536)
    micro_batch: int | None = option(
        None,
        "Rows computed at once; gradients add up to those of the whole mini-batch, so only memory "
        "and time change. Default: the whole mini-batch.",
        minimum=1,
        maximum=65_536,
    )
    optimizer: OptimiserName = option(OptimiserName.ADAM, "The optimiser, fresh every round.")
    lr: float = option(5e-4, "Learning rate.", above=0, maximum=1000)
    task_head_lr: float | None = option(
        None, "Learning rate of the task head. Default: --lr.", minimum=0, maximum=1000
    )
    momentum: float = option(0.9, "Momentum of sgd.", minimum=0, maximum=0.9999)
    beta1: float = option(0.9, "Decay of Adam's first moment.", minimum=0, maximum=0.9999)
    beta2: float = option(0.999, "Decay of Adam's second moment.", minimum=0, maximum=0.999999)
    epsilon: float = option(1e-8, "Adam's epsilon.", above=0, maximum=1)
    clip_norm: float | None = option(
        None, "Largest norm of the whole gradient; longer ones are scaled down to it.", above=0
    )
    score: HeadScore = option(
        HeadScore.RANDOM, "How a device that trains only some heads of a layer chooses them."
    )

    def __post_init__(self) -> None:
        check_options(self)

    def make_optimiser(self) -> Optimiser:
        """The optimiser these settings name."""
        if self.optimizer is OptimiserName.ADAM:
            return Adam(self.beta1, self.beta2, self.epsilon)
        return Sgd(self.momentum)

    def rates(self, layout: ParameterLayout) -> Vector | float:
        """The learning rate of every number: one for all, or float32 [parameters]."""
        if self.task_head_lr is None or self.task_head_lr == self.lr:
            return self.lr
        mask = layout.mask(Role.TASK_HEAD)
        return np.where(mask, np.float32(self.task_head_lr), np.float32(self.lr))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LocalSettings:
        """The inverse of :meth:`as_dict`, for values that came from elsewhere.

        Raises:
            UsageError: An unknown setting, or a value of the wrong type or out of range.
        """
        known = {item.name: item.type for item in fields(cls)}
        checked: dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                raise UsageError(
                    f"setting {name[:40]!r} is not known",
                    hint="upgrade ravan-edge: pip install --upgrade ravan-edge",
                )
            checked[name] = _typed(name, value, str(known[name]))
        return cls(**checked)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, and for digests of a configuration: enumerations as their text."""
        return option_values(self)


# The annotations above, as they are written; what else stands there is a bug a test finds.
_ACCEPTED: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (int, float),
    "float | None": (int, float, type(None)),
}
_NAMES = {"OptimiserName": OptimiserName, "HeadScore": HeadScore}


def _typed(name: str, value: object, annotation: str) -> object:
    if annotation in _NAMES:
        names = _NAMES[annotation]
        if isinstance(value, str) and value in list(names):
            return names(value)
        expected = " or ".join(names)
    else:
        if isinstance(value, _ACCEPTED[annotation]) and not isinstance(value, bool):
            return value
        expected = annotation
    raise UsageError(
        f"{str(value)[:40]!r}, expected {expected}",
        where=option_name(name),
        hint="use a value of that kind",
    )
