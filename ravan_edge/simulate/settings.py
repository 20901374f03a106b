"""Everything a simulation can be told: the command line and run.json are made from this class."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from ravan_edge.data import PartitionSpec, parse_partition
from ravan_edge.errors import UsageError
from ravan_edge.merge import MergeScale, MergeSettings, RoundRule
from ravan_edge.protocol import UploadSettings
from ravan_edge.simulate.budgets import HeadBudgets, parse_head_budgets
from ravan_edge.tasks import LENGTH_HELP
from ravan_edge.training import LocalSettings, check_options, option

__all__ = ["SimulationSettings"]

_DEVICES = 20
_DATA = "Data"
_DEVICE = "Devices"
_CLOCK = "Virtual clock"
_RUN = "Run"


@dataclass(frozen=True)
class SimulationSettings:
    """What a run does. Equal settings, data and artifact make bitwise equal heads.

    The number of worker processes is not part of it: it never changes a bit. ``threads`` is, since
    it can.

    Raises:
        UsageError: A value is out of range; names the option.
    """

    local: LocalSettings = field(default_factory=LocalSettings)
    rule: RoundRule = field(default_factory=RoundRule)
    upload: UploadSettings = field(default_factory=UploadSettings)
    merging: MergeSettings = field(default_factory=MergeSettings)

    devices: int | None = option(
        None,
        f"Simulated devices. Default: {_DEVICES}; with column:NAME every user.",
        minimum=1,
        maximum=1_000_000,
        group=_DEVICE,
    )
    per_round: int = option(
        3,
        "Devices in each round; with --mode async: that train at the same time.",
        minimum=1,
        maximum=1_000_000,
        group=_DEVICE,
    )
    rounds: int = option(
        30, "Rounds; each ends in one merge.", minimum=1, maximum=1_000_000, group=_RUN
    )
    partition: str = option(
        "iid",
        "How training rows lie on devices: iid, dirichlet:ALPHA or column:NAME.",
        group=_DATA,
    )
    validation: float = option(
        0.1,
        "Share of the training rows that chooses the best round and is not trained on; 0: none.",
        minimum=0,
        maximum=0.9,
        group=_DATA,
    )
    text_column: str | None = option(
        None, "Column of the texts (or images). Default: found by its usual names.", group=_DATA
    )
    label_column: str | None = option(
        None, "Column of the labels. Default: found by its usual names.", group=_DATA
    )
    skip_empty: bool = option(False, "Leave out rows with an empty text.", group=_DATA)
    max_length: int | None = option(None, LENGTH_HELP, minimum=1, group=_DATA)
    head_budgets: str | None = option(
        None,
        "Weak devices: HEADS:SHARE pairs such as 1:0.25,3:0.5,4:0.25. Default: all train all heads.",
        group=_DEVICE,
    )
    drop_out: float = option(
        0.0,
        "Probability that a sampled device never answers.",
        minimum=0,
        maximum=0.99,
        group=_DEVICE,
    )
    deadline_seconds: float | None = option(
        None, "Simulated seconds after which a device is too late.", above=0, group=_CLOCK
    )
    device_gflops: float = option(
        20.0, "Nominal speed of a device, 10^9 FLOP a second.", above=0, group=_CLOCK
    )
    device_spread: float = option(
        2.0,
        "Speeds lie between nominal / SPREAD and nominal * SPREAD.",
        minimum=1,
        maximum=1000,
        group=_CLOCK,
    )
    download_mbps: float = option(
        20.0, "Nominal download bandwidth, 10^6 bits a second.", above=0, group=_CLOCK
    )
    upload_mbps: float = option(
        5.0, "Nominal upload bandwidth, 10^6 bits a second.", above=0, group=_CLOCK
    )
    bandwidth_spread: float = option(
        4.0,
        "Bandwidths lie between nominal / SPREAD and nominal * SPREAD.",
        minimum=1,
        maximum=1000,
        group=_CLOCK,
    )
    evaluate_every: int = option(
        1,
        "Evaluate after every so many rounds and after the last; 0: never.",
        minimum=0,
        group=_RUN,
    )
    evaluation_batch: int = option(
        64, "Rows of an evaluation batch.", minimum=1, maximum=65_536, group=_RUN
    )
    plan: str = option("whole", "The artifact's plan that computes the steps.", group=_RUN)
    threads: int = option(
        1,
        "Threads inside one step; another number can change the last bits of a result.",
        minimum=1,
        maximum=1024,
        group=_RUN,
    )
    seed: int = option(
        0, "Seed of everything that is drawn.", minimum=0, maximum=(1 << 64) - 1, group=_RUN
    )

    def __post_init__(self) -> None:
        check_options(self)
        # Equal meanings become equal texts, so that a resumed run is recognised.
        object.__setattr__(self, "partition", str(parse_partition(self.partition)))
        if self.head_budgets is not None:
            object.__setattr__(self, "head_budgets", str(parse_head_budgets(self.head_budgets)))
        self.rule.scale(self.per_round, self.most_examples)  # refuses what cannot be added up
        coder = self.upload.coder
        if self.rule.max_staleness is not None and coder is not None and coder.biased:
            raise UsageError(
                f"together with --codec {coder.name}: a device takes back a difference that is too "
                "stale, and a simulation does not compute what nobody merges",
                where="--max-staleness",
                hint="leave it out, or use --codec int8",
            )
        self.merging.check(
            self.rule, self.goal, "--per-round" if self.rule.buffer is None else "--buffer"
        )

    @property
    def partition_spec(self) -> PartitionSpec:
        """The partition, parsed."""
        return parse_partition(self.partition)

    @property
    def device_count(self) -> int | None:
        """How many devices; None: every natural user."""
        if self.devices is None and self.partition_spec.kind != "column":
            return _DEVICES
        return self.devices

    @property
    def budgets(self) -> HeadBudgets | None:
        """The head budgets, parsed; None: every device trains all heads."""
        return None if self.head_budgets is None else parse_head_budgets(self.head_budgets)

    @property
    def goal(self) -> int:
        """Updates that make a version."""
        return self.rule.goal(self.per_round)

    @property
    def most_examples(self) -> int:
        """The most rows that a device can train on in a round, each time counted."""
        return self.local.local_steps * self.local.batch_size

    @property
    def scale(self) -> MergeScale:
        """Of the exact sums."""
        return self.rule.scale(self.per_round, self.most_examples)

    def as_dict(self) -> dict[str, Any]:
        """Flat, for JSON: option -> value, those of the classes inside among them."""
        own = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.name not in ("local", "rule", "merging", "upload")
        }
        return {
            **own,
            **self.rule.as_dict(),
            **self.merging.as_dict(),
            **self.upload.as_dict(),
            **self.local.as_dict(),
        }
