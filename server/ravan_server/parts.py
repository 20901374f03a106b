"""What a run is made of, so that its rooms need not pass ten arguments to each other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from ravan_edge.artifact import Artifact
from ravan_edge.methods import Method, method_for
from ravan_edge.protocol import UpdateReader
from ravan_server.blobs import Blobs, UpdateLog
from ravan_server.settings import RoundSettings, ServerSettings
from ravan_server.store import Store

__all__ = ["Parts"]


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
        clock: Seconds since 1970.
        retry_seconds: How long to wait after a merge that the disk did not let happen.
    """

    artifact: Artifact
    store: Store
    log: UpdateLog
    blobs: Blobs
    rounds: RoundSettings
    settings: ServerSettings
    clock: Callable[[], float] = field(default=time.time)
    retry_seconds: float = 5.0

    @cached_property
    def method(self) -> Method:
        """The artifact's method."""
        return method_for(self.artifact.manifest)

    @cached_property
    def reader(self) -> UpdateReader:
        """Checks and reads the artifact's updates."""
        return UpdateReader(self.artifact.manifest, self.method, self.artifact.digest)
