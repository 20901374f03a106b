"""What a device can be told: the options of ``ravan device`` are made from this class."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ravan_edge.data import part_of
from ravan_edge.device.conditions import TimeWindow
from ravan_edge.errors import UsageError
from ravan_edge.memory import parse_bytes
from ravan_edge.plans import RuntimeSettings
from ravan_edge.training.options import check_options, option

__all__ = ["DeviceSettings"]

_WORK = "Work"
_CONDITIONS = "Conditions"
_PLAN = re.compile(r"[a-z0-9-]{1,32}")


@dataclass(frozen=True)
class DeviceSettings:
    """How a device works, whatever a server asks.

    Raises:
        UsageError: A value is out of range; names the option.
    """

    plan: str = option("whole", "The artifact's plan that computes.", group=_WORK)
    threads: int = option(
        RuntimeSettings.threads,
        "Threads inside one step; another number can change the last bits of a result.",
        minimum=1,
        maximum=1024,
        group=_WORK,
    )
    micro_batch: int | None = option(
        None,
        "Rows computed at once, where the server asks for more: only memory and time change.",
        minimum=1,
        maximum=65_536,
        group=_WORK,
    )
    train_heads: int | None = option(
        None,
        "The most heads of each layer to train. Default: all.",
        minimum=1,
        maximum=65_536,
        group=_WORK,
    )
    part: str | None = option(
        None,
        "Only every N-th row, from the I-th on, written as I/N: several devices from one file.",
        group="Data",
    )
    memory_limit: str | None = option(
        None,
        "The most anonymous memory of this process, such as 300MB: micro-batches become smaller "
        "to keep it, and a task that does not fit is given back.",
        group=_WORK,
    )
    mains_power: bool = option(
        False, "Work only on mains power; a machine without a battery always is.", group=_CONDITIONS
    )
    hours: str | None = option(
        None, "Work only within these hours of the day, such as 22:00-06:00.", group=_CONDITIONS
    )
    tasks: int | None = option(
        None,
        "End after so many tasks. Default: when the server has finished its rounds.",
        minimum=1,
        maximum=1_000_000,
        group=_WORK,
    )
    patience_seconds: float | None = option(
        None,
        "End with exit code 9 when the server does not answer for so long. Default: try for ever.",
        minimum=0,
        group=_WORK,
    )
    checkpoint_seconds: float = option(
        10.0,
        "Save the unfinished training about so often; 0: after every step.",
        minimum=0,
        group=_WORK,
    )

    def __post_init__(self) -> None:
        check_options(self)
        if not _PLAN.fullmatch(self.plan):
            raise UsageError(
                f"{self.plan[:40]!r} is no name of a plan",
                where="--plan",
                hint="`ravan inspect ARTIFACT` lists the plans of an artifact",
            )
        _ = self.memory_limit_bytes, self.window  # both refuse what they cannot read
        if self.part is not None:
            part_of(self.part, 1_000_000)

    @property
    def memory_limit_bytes(self) -> int | None:
        """The memory limit, parsed."""
        return None if self.memory_limit is None else parse_bytes(self.memory_limit)

    @property
    def window(self) -> TimeWindow | None:
        """The hours, parsed."""
        return None if self.hours is None else TimeWindow.parse(self.hours)

    @property
    def runtime(self) -> RuntimeSettings:
        """For :func:`ravan_edge.plans.open_step`."""
        return RuntimeSettings(threads=self.threads)
