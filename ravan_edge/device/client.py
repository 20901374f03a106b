"""A device's life: check in, train, send, wait; whatever the network and the power do meanwhile.

What it was doing is on disk at every moment, so a killed device goes on where it was. How often it
asks is the server's business (windows); how it bears a server that is not there is its own
(exponential back-off with full jitter).
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import tenacity

from ravan_edge.artifact import HEADS_NAME, Artifact, heads_bytes
from ravan_edge.data import Dataset
from ravan_edge.device.cache import ArtifactCache
from ravan_edge.device.conditions import ConditionSource, LaptopConditions
from ravan_edge.device.connection import ServerConnection
from ravan_edge.device.failures import (
    ConditionsError,
    TooLateError,
    failure_reason,
    is_transient,
)
from ravan_edge.device.settings import DeviceSettings
from ravan_edge.device.state import CurrentTask, DeviceState
from ravan_edge.device.training import TaskTraining
from ravan_edge.device.trust import ArtifactTrust
from ravan_edge.errors import (
    ArtifactError,
    NetworkError,
    NumericsError,
    RavanError,
    WorkerError,
)
from ravan_edge.files import storage_errors
from ravan_edge.protocol import (
    PROTOCOL_VERSION,
    CheckIn,
    ComeBack,
    DeviceFailure,
    Refusal,
    TaskOffer,
    WaitReason,
)
from ravan_edge.training import LocalResult, RoundState

__all__ = ["Device", "DeviceReport"]

Result = TypeVar("Result")

_LONGEST_BACK_OFF_SECONDS = 300.0
_CONDITION_SECONDS = 15.0
_UNTOLD_SECONDS = 30.0
_LATE_SECONDS = (1.0, 5.0)
# Whatever a server says: no asking without a pause, and no device that is lost for years.
_SHORTEST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 2 * 86_400.0


@dataclass
class DeviceReport:
    """What a device did while it ran.

    Attributes:
        sent: Updates that the server acknowledged.
        refused: Tasks whose update the server did not want any more.
        given_back: Tasks that could not be done.
        finished: Whether the server has finished its rounds.
    """

    sent: int = 0
    refused: int = 0
    given_back: int = 0
    finished: bool = False

    @property
    def tasks(self) -> int:
        """How many tasks came to an end."""
        return self.sent + self.refused + self.given_back


@dataclass
class Device:
    """One device.

    Args:
        state: Its folder.
        connection: Its server.
        load: Reads its rows for an artifact.
        settings: Its own.
        conditions: When it may work.
        say: Told what a user may want to know.
        on_task: Told the offer before the work on it; what it raises gives the task back.
        on_step: Told the offer and the state after every step.
        on_trained: Told the offer and the result (its difference as the server will read it), or why
            there is none, before any of it leaves the
            device or is kept; an error that it raises stands in the result's place.
        number: Addresses the random numbers instead of the server's number for this device.
        cache: Where artifacts are kept instead of its own folder; devices that run one after the other
            may share one.
        trust: Which artifacts it trains; None: those of the first key that signed one, if any did.
        sleep, clock, uniform: The world's, or a test's.
    """

    state: DeviceState
    connection: ServerConnection
    load: Callable[[Artifact], Dataset]
    settings: DeviceSettings = field(default_factory=DeviceSettings)
    conditions: ConditionSource = field(default_factory=LaptopConditions)
    say: Callable[[str], None] = lambda text: None  # noqa: ARG005
    on_task: Callable[[TaskOffer], None] = lambda offer: None  # noqa: ARG005
    on_step: Callable[[TaskOffer, RoundState], None] = lambda offer, state: None  # noqa: ARG005
    on_trained: Callable[[TaskOffer, LocalResult | Exception], None] = lambda offer, found: None  # noqa: ARG005
    number: int | None = None
    cache: Path | None = None
    trust: ArtifactTrust | None = None
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.time
    uniform: Callable[[float, float], float] = field(default=random.SystemRandom().uniform)

    def __post_init__(self) -> None:
        self.report = DeviceReport()
        self._cache = ArtifactCache(self.cache or self.state.folder)
        self._trust = self.trust or ArtifactTrust(self.state.folder)
        self._looked_at = 0.0
        self._has_asked = False

    def run(self) -> DeviceReport:
        """Work until the server has finished, or as many tasks are done as the settings say.

        Raises:
            Refusal: The server refuses this device for good.
            ArtifactError: An artifact is refused, its signature perhaps; the task was given back.
            DataError: The rows are refused; the task was given back.
            MemoryLimitError: A task does not fit; it was given back.
            RavanError: Anything else that trying again does not mend.
        """
        most = self.settings.tasks
        while most is None or self.report.tasks < most:
            task = self._current() or self._ask()
            if task is None:
                if self.report.finished:
                    break
                continue
            self._do(task)
        return self.report

    # -- one task

    def _current(self) -> CurrentTask | None:
        """The task it was doing when it ended."""
        task = self.state.current()
        if task is not None and task.server != self.connection.url:
            self.state.add_to_log("abandoned", task.offer, server=task.server)
            self.state.forget_round()
            return None
        return task

    def _ask(self) -> CurrentTask | None:
        """Check in; the task, or None after having waited as long as the server said."""
        self._wait_for_conditions()
        message = CheckIn(
            protocol=PROTOCOL_VERSION,
            device=self.connection.device or self.state.device,
            plans=(self.settings.plan,),
            artifacts=self._cache.digests(),
            memory_limit_bytes=self.settings.memory_limit_bytes,
            heads_to_train=self.settings.train_heads,
            conditions=self.conditions.now(),
        )
        answer = self._persist(lambda: self._check_in(message))
        is_first, self._has_asked = not self._has_asked, True  # who started it looks for a sign
        if isinstance(answer, ComeBack):
            if answer.reason is WaitReason.FINISHED:
                self.report.finished = True
                return None
            wait = self.uniform(answer.earliest_seconds, answer.latest_seconds)
            wait = min(max(wait, _SHORTEST_WAIT_SECONDS), _LONGEST_WAIT_SECONDS)
            if wait > _UNTOLD_SECONDS or is_first:
                self.say(f"{answer.reason.replace('_', ' ')}: asking again in {wait:,.0f} s")
            self.sleep(wait)
            return None
        task = CurrentTask(answer, self.connection.url, self.clock() + answer.deadline_seconds)
        self.state.begin(task)
        self.say(
            f"round {answer.round}: {answer.local.local_steps} steps from version {answer.version}"
        )
        return task

    def _check_in(self, message: CheckIn) -> TaskOffer | ComeBack:
        answer = self.connection.check_in(message)
        if isinstance(answer, TaskOffer) and answer.plan not in message.plans:
            raise NetworkError(
                f"the server asks for plan {answer.plan!r}, this device runs {self.settings.plan!r}",
                where=self.connection.url,
                hint="check that a server of ravan-edge of this version runs there",
            )
        return answer

    def _do(self, task: CurrentTask) -> None:
        """Bring a task to its end, whatever that is."""
        offer = task.offer
        try:
            with self._failures_told(offer):
                self.on_task(offer)
                if not self.state.update_path.exists():
                    self._train(task)
        except TooLateError:
            self.say(f"round {offer.round}: too late, the deadline has passed")
            self._end(offer, "late")
            self.report.refused += 1
            # Until the server has ended the round it would give out the same task at once.
            self.sleep(self.uniform(*_LATE_SECONDS))
            return
        except (NumericsError, WorkerError, ConditionsError, Refusal) as error:
            self.say(f"round {offer.round}: given back: {error}")
            return  # the next round may go well
        self._send(task)

    def _train(self, task: CurrentTask) -> None:
        offer = task.offer
        self._check_deadline(task)
        fetch = self.connection.download
        self._persist(lambda: self._trust.check(offer, fetch, self.clock()))
        artifact = self._persist(lambda: self._cache.open(offer.artifact, offer.plan, fetch))
        manifest = artifact.manifest
        # Version 0 is the artifact's own file, whoever wrote it.
        most = max(heads_bytes(manifest, offer.version), manifest.files[HEADS_NAME].size)
        if offer.heads_bytes > most:
            raise ArtifactError(
                f"the server's heads have {offer.heads_bytes:,} bytes, those of this artifact have "
                f"at most {most:,}",
                where=self.connection.url,
                hint="ask whoever runs the server",
            )
        self._persist(
            lambda: self._cache.place(offer.heads, self.state.heads_path, offer.heads_bytes, fetch)
        )
        dataset = self.load(artifact)
        self._check_deadline(task)

        def on_step(state: RoundState) -> None:
            self.on_step(offer, state)
            self._may_go_on(task)

        def on_trained(result: LocalResult) -> None:
            self.on_trained(offer, result)

        training = TaskTraining(
            task,
            artifact,
            dataset,
            self.state,
            self.settings,
            self.say,
            on_step,
            on_trained,
            self.number,
        )
        result = training.run()
        self.say(f"round {offer.round}: trained, loss {result.mean_loss:.4f}")

    def _send(self, task: CurrentTask) -> None:
        offer = task.offer
        with storage_errors(self.state.update_path, "read the update"):
            content = self.state.update_path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        self.state.sending(task, content, sha256)
        try:
            self._persist(lambda: self._upload(offer.task, content, sha256))
        except Refusal as refusal:
            self.say(f"round {offer.round}: the server does not want the update: {refusal}")
            self.state.refused(offer, refusal.reason)
            self.report.refused += 1
            return
        self.state.acknowledged(task, sha256)
        self.report.sent += 1
        self.say(f"round {offer.round}: sent {len(content):,} bytes")

    def _upload(self, task: str, content: bytes, sha256: str) -> None:
        receipt = self.connection.upload(task, content)
        if (receipt.task, receipt.sha256) != (task, sha256):
            raise NetworkError(
                "the server acknowledged something else than was sent",
                where=self.connection.url,
                hint="try again; if it stays so, something between changes what is sent",
            )

    @contextmanager
    def _failures_told(self, offer: TaskOffer) -> Iterator[None]:
        """What goes wrong is told to the server, so that another device gets the place."""
        try:
            yield
        except (RavanError, ConditionsError, Refusal) as error:
            # A refusal: what the task needs is gone, such as heads that the server has forgotten.
            self.on_trained(offer, error)
            reason = failure_reason(error)
            failure = DeviceFailure(reason=reason, detail=type(error).__name__)
            with suppress(Refusal, NetworkError):  # then its deadline tells the server
                self.connection.give_back(offer.task, failure)
            self._end(offer, "given back", reason=str(reason))
            self.report.given_back += 1
            raise

    def _end(self, offer: TaskOffer, event: str, **more: str) -> None:
        self.state.add_to_log(event, offer, **more)
        self.state.forget_round()

    # -- waiting

    def _persist(self, request: Callable[[], Result]) -> Result:
        """A request, again and again until the server has answered it."""
        back_off = tenacity.wait_random_exponential(multiplier=1, max=_LONGEST_BACK_OFF_SECONDS)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome is not None else None
            least = error.retry_after_seconds if isinstance(error, Refusal) else None
            return max(back_off(state), min(least or 0.0, _LONGEST_WAIT_SECONDS))

        def told(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            if state.attempt_number in {1, 5} or state.attempt_number % 20 == 0:
                self.say(f"{error}; trying again in {state.upcoming_sleep:,.1f} s")

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_transient),
            wait=wait,
            before_sleep=told,
            sleep=self.sleep,
            stop=self._patience(),
            reraise=True,
        )
        return retrying(request)

    def _patience(self) -> Callable[[tenacity.RetryCallState], bool]:
        most = self.settings.patience_seconds
        if most is None:
            return tenacity.stop_never
        begin = self.clock()
        return lambda state: self.clock() - begin >= most  # noqa: ARG005

    def _allowed(self) -> float:
        """Seconds until the device may work, as far as is known; 0: now."""
        if self.settings.window is not None:
            seconds = self.settings.window.seconds_until(self.conditions.minute_of_day())
            if seconds:
                return seconds
        if self.settings.mains_power and self.conditions.now().mains_power is not True:
            return _CONDITION_SECONDS
        return 0.0

    def _wait_for_conditions(self) -> None:
        told = False
        while seconds := self._allowed():
            if not told:
                self.say("waiting for mains power or for the hours in which to work")
                told = True
            self.sleep(min(seconds, _CONDITION_SECONDS))

    def _check_deadline(self, task: CurrentTask) -> None:
        if self.clock() >= task.deadline_at:
            raise TooLateError

    def _may_go_on(self, task: CurrentTask) -> None:
        """After a step: stop at the deadline, pause while the conditions do not hold."""
        self._check_deadline(task)
        now = self.clock()
        if 0 <= now - self._looked_at < _CONDITION_SECONDS:
            return
        self._looked_at = now
        while seconds := self._allowed():
            if self.clock() >= task.deadline_at:
                raise ConditionsError("the conditions for working ended")
            self.sleep(min(seconds, _CONDITION_SECONDS))
