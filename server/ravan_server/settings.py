"""Everything a server can be told: the command line is made from these classes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ravan_edge.errors import UsageError
from ravan_edge.hosts import is_loopback
from ravan_edge.merge import MergeScale, MergeSettings, RoundRule
from ravan_edge.protocol import UploadSettings
from ravan_edge.training.options import check_options, option
from ravan_edge.training.settings import LocalSettings
from ravan_server.events import LogFormat

__all__ = ["DEFAULT_CONNECTIONS", "RoundSettings", "ServerSettings"]

DEFAULT_CONNECTIONS = 20_000
"""Where the system's limit of open files allows them."""

_ROUNDS = "Rounds"
_NETWORK = "Network"
_ACCESS = "Access"
_WATCHING = "Watching"
_STORAGE = "Storage"


@dataclass(frozen=True)
class RoundSettings:
    """How a round runs. Stored with each attempt, so that a restart with others changes only the next.

    Raises:
        UsageError: A number is out of range; names the option.
    """

    local: LocalSettings = field(default_factory=LocalSettings)
    rule: RoundRule = field(default_factory=RoundRule)
    upload: UploadSettings = field(default_factory=UploadSettings)
    merging: MergeSettings = field(default_factory=MergeSettings)

    goal: int = option(
        3,
        "Updates that end a round; with --mode async --buffer does, and this is how many devices train "
        "at once.",
        minimum=1,
        maximum=1_000_000,
        group=_ROUNDS,
    )
    over_selection: float = option(
        1.3,
        "Tasks that are out at most, as a multiple of --goal: some devices never answer.",
        minimum=1,
        maximum=100,
        group=_ROUNDS,
    )
    minimum: int | None = option(
        None,
        "Updates that are merged when the deadline comes first. Default: as many as without a deadline.",
        minimum=1,
        maximum=1_000_000,
        group=_ROUNDS,
    )
    deadline_seconds: float = option(
        600.0,
        "Seconds a round has from its first task on; with --mode async each task as well.",
        minimum=1,
        maximum=30 * 86_400,
        group=_ROUNDS,
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.minimum is not None and self.minimum > self.updates:
            option = "--goal" if self.rule.buffer is None else "--buffer"
            raise UsageError(
                f"{self.minimum} is more than {option} {self.updates}",
                where="--minimum",
                hint="a version is made of no more than that; use at most that",
            )
        self.rule.scale(self.goal, self.most_examples)  # refuses what cannot be added up
        fewest = "--goal" if self.rule.buffer is None else "--buffer"
        self.merging.check(self.rule, self.enough, fewest if self.minimum is None else "--minimum")

    @property
    def places(self) -> int:
        """How many tasks may be out; in a synchronous round those that are done count, too."""
        return math.ceil(self.goal * self.over_selection)

    @property
    def updates(self) -> int:
        """How many make a version."""
        return self.rule.goal(self.goal)

    @property
    def enough(self) -> int:
        """Updates that are merged at the deadline."""
        return self.updates if self.minimum is None else self.minimum

    @property
    def most_examples(self) -> int:
        """The most rows that a device can train on for one update, each time counted."""
        return self.local.local_steps * self.local.batch_size

    @property
    def scale(self) -> MergeScale:
        """The fixed-point scale of a merge."""
        return self.rule.scale(self.goal, self.most_examples)

    def to_json(self) -> str:
        """For the store."""
        nested = {
            "local": self.local.as_dict(),
            "rule": self.rule.as_dict(),
            "merging": self.merging.as_dict(),
            "upload": self.upload.as_dict(),
        }
        own = {
            item.name: getattr(self, item.name) for item in fields(self) if item.name not in nested
        }
        return json.dumps(nested | own, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RoundSettings:
        """What :meth:`to_json` wrote."""
        document: dict[str, Any] = json.loads(text)
        return cls(
            local=LocalSettings.from_dict(document.pop("local")),
            rule=RoundRule.from_dict(document.pop("rule")),
            upload=UploadSettings.from_dict(document.pop("upload")),
            merging=MergeSettings.from_dict(document.pop("merging")),
            **document,
        )


@dataclass(frozen=True)
class ServerSettings:
    """What else a server can be told.

    Raises:
        UsageError: A number is out of range, or one of two files is missing; names the option.
    """

    rounds: int = option(
        30, "Rounds; each ends in one merge.", minimum=1, maximum=1_000_000, group=_ROUNDS
    )
    seed: int = option(
        0,
        "Seed of everything that devices draw.",
        minimum=0,
        maximum=(1 << 64) - 1,
        group=_ROUNDS,
    )
    keep_versions: int = option(
        20,
        "Latest versions whose heads are kept; version 0 always is.",
        minimum=1,
        maximum=1_000_000,
        group=_ROUNDS,
    )
    mains_power: bool = option(
        False, "Give tasks only to devices that say they are on mains power.", group=_ROUNDS
    )
    unmetered: bool = option(
        False, "Give tasks only to devices that say their network costs nothing.", group=_ROUNDS
    )
    database: str | None = option(
        None,
        "PostgreSQL to keep the state in, postgresql://user@host/database; no password in it. "
        "Default: SQLite in --state.",
        group=_STORAGE,
    )
    database_file: Path | None = option(
        None,
        "File with the address of PostgreSQL, which may hold a password.",
        group=_STORAGE,
    )
    objects: str | None = option(
        None,
        "Bucket of an S3-compatible store for updates and heads, s3://bucket/prefix. Default: --state.",
        group=_STORAGE,
    )
    objects_endpoint: str | None = option(
        None,
        "Address of that store. Default: AWS_ENDPOINT_URL, else Amazon's.",
        group=_STORAGE,
    )
    objects_region: str | None = option(
        None, "Region of the bucket. Default: AWS_REGION, else us-east-1.", group=_STORAGE
    )
    shared: bool = option(
        False,
        "Other processes serve the same run, all with --shared, each with a --state of its own: needs a "
        "database and a bucket.",
        group=_STORAGE,
    )
    enrolment: bool = option(
        False,
        "Take only enrolled devices, also where nobody but this machine can connect.",
        group=_ACCESS,
    )
    operator_token_file: Path | None = option(
        None,
        "File with the operators' token. Default: operator.token in --state, made when missing.",
        group=_ACCESS,
    )
    requests_per_minute: int = option(
        240,
        "Requests that one enrolled device may make in a minute.",
        minimum=1,
        maximum=1_000_000,
        group=_ACCESS,
    )
    host: str = option("127.0.0.1", "Address to listen on.", group=_NETWORK)
    port: int = option(
        8750, "Port to listen on; 0: any free one.", minimum=0, maximum=65_535, group=_NETWORK
    )
    tls_certificate: str | None = option(
        None,
        "PEM file of the server's certificate and those that signed it: devices connect by https.",
        group=_NETWORK,
    )
    tls_key: str | None = option(
        None, "PEM file of the certificate's key, without a password.", group=_NETWORK
    )
    behind_proxy: bool = option(
        False,
        "TLS ends in a proxy in front, which says in x-forwarded-for who a client is.",
        group=_NETWORK,
    )
    check_ins_per_second: float = option(
        50.0,
        "How many devices a second are asked to come back, at most.",
        above=0,
        maximum=1_000_000,
        group=_NETWORK,
    )
    uploads_in_memory: int = option(
        256,
        "MB of uploads that are received at once; further ones are asked to try again.",
        minimum=1,
        maximum=1_000_000,
        group=_NETWORK,
    )

    connections: int | None = option(
        None,
        "Open connections, all together. Default: 20000, or what the limit of open files allows.",
        minimum=1,
        maximum=1_000_000,
        group=_NETWORK,
    )
    connections_per_address: int = option(
        12_000,
        "Open connections from one IPv4 address or one IPv6 network of 64 bits.",
        minimum=1,
        maximum=1_000_000,
        group=_NETWORK,
    )

    log_format: LogFormat = option(
        LogFormat.TEXT, "Lines of the log: text for people, json for programs.", group=_WATCHING
    )

    def __post_init__(self) -> None:
        check_options(self)
        for has, needs, name in (
            (self.tls_certificate, self.tls_key, "--tls-key"),
            (self.tls_key, self.tls_certificate, "--tls-certificate"),
        ):
            if has is not None and needs is None:
                raise UsageError(
                    "is needed, too", where=name, hint="a certificate and its key go together"
                )
        if not is_loopback(self.host) and self.tls_certificate is None and not self.behind_proxy:
            raise UsageError(
                "other machines can connect there, and anybody between could read along",
                where=f"--host {self.host}",
                hint="give --tls-certificate and --tls-key; or --behind-proxy, where a proxy in front "
                "does TLS; or use 127.0.0.1",
            )
        self._check_shared()

    def _check_shared(self) -> None:
        """What processes share must be where all of them find it."""
        database = self.database is not None or self.database_file is not None
        for given, name, what in (
            (database, "--database", "a PostgreSQL that all of them can reach"),
            (self.objects is not None, "--objects", "a bucket that all of them can reach"),
            (
                not self.login or self.operator_token_file is not None,
                "--operator-token-file",
                "one token of operators for all of them",
            ),
        ):
            if self.shared and not given:
                raise UsageError(
                    f"processes that serve one run need {what}",
                    where="--shared",
                    hint=f"give {name}, or leave out --shared where one process serves the run",
                )

    @property
    def exposed(self) -> bool:
        """Whether others than this machine's users may reach it."""
        return not is_loopback(self.host) or self.behind_proxy or self.tls_certificate is not None

    @property
    def login(self) -> bool:
        """Whether requests must say who makes them: always where others may reach it."""
        return self.enrolment or self.exposed
