"""What a run is made of, so that its rooms need not pass ten arguments to each other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ravan_edge.artifact import Artifact
from ravan_edge.methods import Method, method_for
from ravan_edge.protocol import UpdateReader
from ravan_server.blobs import Blobs, UpdateLog
from ravan_server.meters import Meters
from ravan_server.settings import RoundSettings, ServerSettings
from ravan_server.store import Store

__all__ = ["Parts", "steady_clock"]


def steady_clock(
    wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
) -> Callable[[], float]:
    """A clock of a run: seconds since 1970 by the wall clock of now, which from then on only goes forward.

    Whoever sets the system's clock meanwhile ends no attempt and lengthens none. What other machines say of
    the time is compared with the wall clock itself.

    >>> moments = iter([100.0, 103.0])
    >>> steady_clock(lambda: 1_800_000_000.0, lambda: next(moments))()
    1800000003.0
    """
    ahead = wall() - monotonic()
    return lambda: monotonic() + ahead


@dataclass(frozen=True)
class Parts:
    """One run's artifact, storage and settings.

    Args:
        artifact: What devices train.
        store: What happened.
        log: Where updates are kept until they are merged.
        blobs: Where heads files are kept.
        rounds: How rounds run from the next attempt on.
        settings: Everything else.
        clock: Seconds since 1970, which only go forward.
        retry_seconds: How long to wait after a merge that the disk did not let happen.
        meters: What is counted.
        wall_clock: Seconds since 1970 as the system says, for what others say of the time: signatures.
        scratch: A folder for what is needed only while a merge runs; made when it is.
    """

    artifact: Artifact
    store: Store
    log: UpdateLog
    blobs: Blobs
    rounds: RoundSettings
    settings: ServerSettings
    clock: Callable[[], float] = field(default_factory=steady_clock)
    retry_seconds: float = 5.0
    meters: Meters = field(default_factory=Meters)
    wall_clock: Callable[[], float] = field(default=time.time)
    scratch: Path = Path("merging")

    @cached_property
    def method(self) -> Method:
        """The artifact's method."""
        return method_for(self.artifact.manifest)

    @cached_property
    def reader(self) -> UpdateReader:
        """Checks and reads the artifact's updates."""
        return UpdateReader(self.artifact.manifest, self.method, self.artifact.digest)
