"""Rounds that a real server merges: sample, let each device do its task there, fetch the next version.

The second rule (the first is in ``rounds.py``). The server must do what the in-process simulation with
these settings does: then cohorts, local rounds, scale and merge are the same numbers, and so are the
heads. Everything that could differ is compared before it matters, and refused.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import tenacity

from ravan_edge.artifact import (
    Artifact,
    heads_bytes,
    heads_metadata,
    read_heads,
    tensors_to_bytes,
)
from ravan_edge.device import ServerConnection, refusals_as_errors
from ravan_edge.device.failures import is_transient
from ravan_edge.errors import NumericsError, UsageError
from ravan_edge.merge import Merged, MergeSettings, RoundRule
from ravan_edge.methods import Vector, method_for
from ravan_edge.protocol import ServerStatus
from ravan_edge.simulate.cohort import sample_cohort
from ravan_edge.simulate.messages import DeviceOutcome
from ravan_edge.simulate.metrics import trained_outcome
from ravan_edge.simulate.prepare import Prepared
from ravan_edge.simulate.rounds import RoundReport, check_crashes, finish_round
from ravan_edge.simulate.server_devices import PATIENCE_SECONDS, ServerDevices, TaskOutcome
from ravan_edge.simulate.settings import SimulationSettings
from ravan_edge.simulate.state import RunState

__all__ = ["DEVICES_FOLDER", "ServerRounds", "check_server", "check_server_settings"]

Result = TypeVar("Result")

DEVICES_FOLDER = "devices"

_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 1.0
_ANEW = "start over: `ravan serve` with a new --state, and this run with a new --out"


def check_server_settings(settings: SimulationSettings) -> None:
    """Refuse what only a simulated server can do.

    Raises:
        UsageError: Names the option.
    """
    if settings.rule != RoundRule():
        raise UsageError(
            "together with --server: only synchronous rounds that weigh updates alike are compared",
            where="--mode, --weighting",
            hint="leave them out, or --server",
        )
    if settings.merging != MergeSettings():
        raise UsageError(
            "together with --server: how it merges is what `ravan serve` was told",
            where="--merge and the options beside it",
            hint="leave them out, or --server",
        )
    given = {"--drop-out": settings.drop_out, "--deadline-seconds": settings.deadline_seconds}
    for option, value in given.items():
        if value:
            raise UsageError(
                f"{value:g} together with --server: who is missing is the server's business",
                where=option,
                hint=f"leave out {option}, or --server",
            )


def check_server(
    connection: ServerConnection, artifact: Artifact, settings: SimulationSettings
) -> None:
    """Refuse a server that merges something else; called before any work.

    Raises:
        UsageError: Names the option.
        NetworkError: It cannot be reached.
    """
    with refusals_as_errors():
        status = connection.status()
    if status.artifact != artifact.digest:
        raise UsageError(
            f"the server's artifact is {status.artifact}, this one is {artifact.digest}",
            where="--server",
            hint="give `ravan serve` and `ravan simulate` the same artifact",
        )
    if status.mode != "sync":
        raise UsageError(
            "the server's rounds are asynchronous: which update comes first is not simulated",
            where="--server",
            hint="start `ravan serve` without --mode async, or simulate it without --server",
        )
    for option, there, theirs, here in (
        ("--per-round", "--goal", status.goal, settings.per_round),
        ("--rounds", "--rounds", status.rounds, settings.rounds),
    ):
        if theirs != here:
            raise UsageError(
                f"{here}, but the server's {there} is {theirs}",
                where=option,
                hint=f"use {option} {theirs}, or `ravan serve` with {there} {here}",
            )


class ServerRounds:
    """The rule: ``state -> (state, report)``.

    Args:
        connection: The server.
        artifact: What is trained.
        prepared: The run.
        out: Its folder.
        login: Whether its devices enrol.
        sleep: The world's, or a test's.
    """

    def __init__(
        self,
        connection: ServerConnection,
        artifact: Artifact,
        prepared: Prepared,
        out: Path,
        *,
        login: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._connection = connection
        self._artifact = artifact
        self._method = method_for(artifact.manifest)
        self._prepared = prepared
        self._folder = out / DEVICES_FOLDER
        self._devices = ServerDevices(self._folder, connection, prepared.data, login=login)
        self._sleep = sleep

    def check_version(self, round: int) -> None:
        """Refuse a server that is not where the run is.

        Raises:
            UsageError: It is elsewhere.
            NetworkError: It cannot be reached.
        """
        with refusals_as_errors():
            self._is_ahead(self._status(), round)

    def __call__(self, state: RunState) -> tuple[RunState, RoundReport]:
        """The next round: from version ``state.round`` to the one after it.

        Raises:
            UsageError: The server does something else than this run.
            NumericsError: The server waits in vain for devices whose numbers went bad.
            WorkerError: The step of every device crashed.
            ServerRefusedError: The server refuses a device.
            NetworkError: The server cannot be reached.
        """
        settings = self._prepared.data.settings
        sampled = sample_cohort(
            self._prepared.eligible, settings.per_round, seed=settings.seed, round=state.round
        )
        cohort = sampled.tolist()
        with refusals_as_errors():
            status = self._status()
            ahead = self._is_ahead(status, state.round)
            if not ahead:
                self._check_start(status, state, cohort)
                self._train(cohort, state.round, status.attempt)
            found = self._outcomes(cohort, state.round)
            first = (~state.seen[sampled]).tolist()
            outcomes = [
                self._device_outcome(each, state.round, device, new)
                for each, device, new in zip(found, cohort, first, strict=True)
            ]
            check_crashes(state, outcomes)
            heads = state.heads
            if any(each.status == "merged" for each in found):
                found, status = self._wait(cohort, state.round)
                heads = self._merged(found, status, state.round, certain=not ahead)
        seen = state.seen.copy()
        seen[sampled] = True
        return finish_round(self._prepared, state, outcomes, Merged(heads, None, 0), seen)

    # -- before the devices

    def _is_ahead(self, status: ServerStatus, round: int) -> bool:
        """Whether the server has merged the round that the run has not committed yet."""
        if status.version == round:
            return False
        if status.version == round + 1 and round < self._prepared.data.settings.rounds:
            return True
        raise UsageError(
            f"the server is at version {status.version}, this run at version {round}",
            where="--server",
            hint=_ANEW,
        )

    def _check_start(self, status: ServerStatus, state: RunState, cohort: list[int]) -> None:
        if state.round:  # the artifact's own heads are called otherwise
            content = tensors_to_bytes(
                self._method.layout.views(state.heads),
                heads_metadata(state.round, self._artifact.digest),
            )
            if hashlib.sha256(content).hexdigest() != status.heads:
                raise UsageError(
                    f"the server's heads of version {state.round} are not those of this run",
                    where="--server",
                    hint=_ANEW,
                )
        known = status.training + status.accepted
        own = self._devices.took_part(cohort)
        if known > own:
            raise UsageError(
                f"{known} devices have a task of round {state.round + 1}, and {own} of them are of "
                "this run",
                where="--server",
                hint=f"no other device may take part, nor an earlier run; {_ANEW}",
            )

    # -- the devices

    def _train(self, cohort: list[int], version: int, attempt: int) -> None:
        for device in cohort:
            if not self._devices.ended(device, version, attempt):
                attempt = self._devices.train(device, version).attempt

    def _outcomes(self, cohort: list[int], version: int) -> list[TaskOutcome]:
        found = [self._devices.outcome(device, version) for device in cohort]
        known = [each for each in found if each is not None]
        if len(known) < len(found):
            raise UsageError(
                f"the server is at version {version + 1}, and in this run only {len(known)} of "
                f"{len(found)} devices have done round {version + 1}",
                where="--server",
                hint=_ANEW,
            )
        return known

    def _device_outcome(
        self, found: TaskOutcome, version: int, device: int, first: bool
    ) -> DeviceOutcome:
        return trained_outcome(
            self._prepared.data,
            version=version,
            device=device,
            first=first,
            trained=found.trained,
            status=found.status,
            error=found.error,
        )

    # -- the merge

    def _wait(self, cohort: list[int], version: int) -> tuple[list[TaskOutcome], ServerStatus]:
        """Until the server has merged; an attempt that its deadline ended is done again."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            found = self._outcomes(cohort, version)
            status = self._status()
            if self._is_ahead(status, version):
                return found, status
            merged = [each for each in found if each.status == "merged"]
            if all(each.attempt == status.attempt for each in merged):
                if pause == _LONGEST_PAUSE_SECONDS and status.accepted < len(merged):
                    raise UsageError(
                        f"the server has {status.accepted} updates of round {version + 1}, and "
                        f"{len(merged)} devices of this run have sent theirs",
                        where="--server",
                        hint=_ANEW,
                    )
                self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                continue
            failed = [each for each in found if each.status != "merged"]
            if failed:
                raise NumericsError(
                    f"round {version + 1}: the server's deadline passed with {len(failed)} of "
                    f"{len(found)} devices failed ({failed[0].error})",
                    where="--server",
                    hint="start `ravan serve` with a smaller --minimum: it merges without them",
                )
            self._train(cohort, version, status.attempt)

    def _merged(
        self, found: list[TaskOutcome], status: ServerStatus, version: int, *, certain: bool
    ) -> Vector:
        """The heads of the next version."""
        merged = [each for each in found if each.status == "merged"]
        # A round ends at its goal: when so many of one attempt were acknowledged, it merged those.
        if not certain or len(merged) < self._prepared.data.settings.per_round:
            latest = self._ask(self._connection.versions)[0]
            if latest.version != status.version or latest.updates != len(merged):
                raise self._not_ours(version, f"{latest.updates} updates", len(merged))
        if len({each.attempt for each in merged}) != 1:
            raise self._not_ours(version, "updates of one attempt", len(merged))
        path = self._folder / "heads.safetensors"
        most = heads_bytes(self._artifact.manifest, self._prepared.data.settings.rounds)
        self._ask(lambda: self._connection.download(status.heads, path, most))
        return self._method.layout.pack(read_heads(path, self._artifact))

    @staticmethod
    def _not_ours(version: int, there: str, here: int) -> UsageError:
        return UsageError(
            f"the server merged {there} into version {version + 1}, this run has {here}",
            where="--server",
            hint=_ANEW,
        )

    def _status(self) -> ServerStatus:
        return self._ask(self._connection.status)

    @staticmethod
    def _ask(request: Callable[[], Result]) -> Result:
        """Again and again while the server cannot be reached, but not for ever."""
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_transient),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=5),
            stop=tenacity.stop_after_delay(PATIENCE_SECONDS),
            reraise=True,
        )(request)
