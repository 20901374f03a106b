"""What the server does with each request, and by itself: the one object that the network talks to."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from ravan_edge.artifact import HEADS_NAME, Artifact
from ravan_edge.errors import RavanError, UsageError
from ravan_edge.methods import Method, method_for
from ravan_edge.protocol import (
    CheckIn,
    ComeBack,
    DeviceFailure,
    Reason,
    Receipt,
    Refusal,
    ServerStatus,
    TaskOffer,
    WaitReason,
)
from ravan_server.blobs import ArtifactBlobs, FolderBlobs, FolderUpdateLog
from ravan_server.group_commit import GroupCommit, Work
from ravan_server.merging import Merger
from ravan_server.offers import check_protocol, choose_plan, meets_conditions, task_offer
from ravan_server.operations import (
    CheckedUpdate,
    accept_update,
    assign,
    give_back,
    record_merge,
    refuse_ended,
    turn,
)
from ravan_server.rounds import Attempt, AttemptState
from ravan_server.settings import RoundSettings, ServerSettings
from ravan_server.store import RunRow, Store, TaskRow, TaskState, VersionRow
from ravan_server.view import View
from ravan_server.windows import ReturnWindows

__all__ = ["Coordinator"]

_log = logging.getLogger(__name__)

_TICK_SECONDS = 0.25
_RETRY_SECONDS = 5.0
_MERGING_SECONDS = 2.0
_AFTER_FINISH_SECONDS = 3600.0


class Coordinator:
    """A run: its rounds, its devices, its versions.

    Opening it recovers what a killed process left behind. Nothing runs before :meth:`start`.

    Args:
        artifact: What devices train.
        store: What happened.
        log: Where updates are kept until they are merged.
        blobs: Where heads files are kept.
        rounds: How rounds run from the next attempt on.
        settings: Everything else.
        clock: Seconds since 1970.
        retry_seconds: How long to wait after a merge that the disk did not let happen.

    Raises:
        UsageError: The state belongs to another artifact.
        StorageError: It cannot be read or written.
    """

    def __init__(
        self,
        artifact: Artifact,
        store: Store,
        log: FolderUpdateLog,
        blobs: FolderBlobs,
        rounds: RoundSettings,
        settings: ServerSettings,
        clock: Callable[[], float] = time.time,
        retry_seconds: float = _RETRY_SECONDS,
    ) -> None:
        self._retry_seconds = retry_seconds
        self.artifact = artifact
        self.method: Method = method_for(artifact.manifest)
        self._store = store
        self._update_log = log
        self._blobs = blobs
        self._files = ArtifactBlobs(artifact)
        self._rounds = rounds
        self._settings = settings
        self._clock = clock
        self._merger = Merger(artifact, self.method, blobs, log)
        self._windows = ReturnWindows(settings.check_ins_per_second)
        self._asking = 0
        self._asking_lock = threading.Lock()
        self._typical_seconds = 0.0
        self._turning = threading.Lock()
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._recover()
        with store.reading() as transaction:
            self._view = View.load(transaction)
        self._writer = GroupCommit(store, log, clock, self._committed, lambda: self._view)
        self._housekeeper = threading.Thread(target=self._keep_house, name="rounds", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._writer.start()
        self._housekeeper.start()

    def stop(self) -> None:
        """Finish what was begun, and end."""
        self._ending.set()
        self._wake.set()
        self._housekeeper.join()
        self._writer.stop()
        self._update_log.close()
        self._store.close()

    def blob(self, digest: str) -> Path:
        """A file with this content.

        Raises:
            Refusal: There is none.
        """
        path = self._files.path(digest) or self._blobs.path(digest)
        if path is None:
            raise Refusal(Reason.NO_SUCH_BLOB, f"there is no blob {digest[:64]}")
        return path

    def check_in(self, check_in: CheckIn) -> ComeBack | Future[TaskRow | WaitReason]:
        """A window to come back in, at once; or the promise of an answer (see :meth:`answer`).

        Raises:
            Refusal: Another protocol, or no common plan.
        """
        check_protocol(check_in.protocol)
        plan = choose_plan(check_in, self.artifact)
        view = self._view
        reason = self._reason_to_wait(view, check_in)
        if reason is not None:
            return self._come_back(reason)
        self._asked(1)
        future = self._writer.submit(
            lambda work: assign(work, check_in, plan), device=check_in.device
        )
        future.add_done_callback(lambda _: self._asked(-1))
        return future

    def answer(self, found: TaskRow | WaitReason) -> TaskOffer | ComeBack:
        """What to say after the promise of :meth:`check_in` came true."""
        if isinstance(found, WaitReason):
            return self._come_back(found)
        view = self._view
        if found.attempt != view.attempt.id:
            return self._come_back(WaitReason.MERGING)  # the round ended in this very moment
        return task_offer(found, view.attempt, view.heads, self.artifact, self._clock())

    def task(self, task: str) -> TaskRow:
        """A task whose update is about to be sent: known, and worth receiving or comparing.

        Raises:
            Refusal: There is no such task, or it ended without an update.
        """
        row = self._view.tasks.get(task)
        if row is None:
            with self._store.reading() as transaction:
                row = transaction.task(task)
        if row is None:
            raise Refusal(Reason.NO_SUCH_TASK, f"there is no task {task[:64]}: check in again")
        if row.update is None:
            refuse_ended(row)
        return row

    def version_of(self, row: TaskRow) -> int | None:
        """The version a task starts from; None: its attempt is over."""
        view = self._view
        return view.attempt.version if row.attempt == view.attempt.id else None

    def accept(self, task: str, update: CheckedUpdate) -> Future[Receipt]:
        """Store an update; the future is done when it is durable."""
        return self._writer.submit(lambda work: accept_update(work, task, update))

    def give_back(self, task: str, failure: DeviceFailure) -> Future[None]:
        """A device cannot do its task."""
        return self._writer.submit(lambda work: give_back(work, task, failure))

    def status(self) -> ServerStatus:
        """Where the rounds stand."""
        view = self._view
        attempt = view.attempt
        deadline = attempt.deadline_at
        is_open = attempt.state is AttemptState.OPEN and deadline is not None
        return ServerStatus(
            artifact=self.artifact.digest,
            heads=view.heads.heads,
            version=view.heads.version,
            round=attempt.round,
            rounds=self._settings.rounds,
            attempt=attempt.number,
            state=view.state,
            devices=view.devices,
            goal=attempt.settings.goal,
            training=attempt.training,
            accepted=attempt.accepted,
            failed_attempts=view.failed_attempts,
            deadline_seconds=attempt.remaining_seconds(self._clock()) if is_open else None,
        )

    def turn(self) -> None:
        """One look at the clock: ends an attempt whose deadline has passed, merges one that is closed.

        The server does it by itself several times a second.

        Raises:
            Refusal: The store could not be written.
            RavanError: A merge failed; nothing is lost, it is tried again.
        """
        with self._turning:
            self._turn()

    # -- waiting

    def _reason_to_wait(self, view: View, check_in: CheckIn) -> WaitReason | None:
        """Why a device gets no task, as far as the copy in memory knows: the way that costs nothing."""
        if view.attempt.state is AttemptState.MERGED:
            return WaitReason.FINISHED
        if view.attempt.state is AttemptState.CLOSED:
            return WaitReason.MERGING
        known = view.task_of.get(check_in.device)
        if known is not None:
            return None if known.state is TaskState.TRAINING else WaitReason.TOOK_PART
        if view.attempt.free_places <= self._asking:
            return WaitReason.ROUND_FULL
        if not meets_conditions(check_in, self._settings):
            return WaitReason.CONDITIONS
        return None

    def _come_back(self, reason: WaitReason) -> ComeBack:
        now = self._clock()
        self._windows.arrived(now)
        attempt = self._view.attempt
        if reason is WaitReason.FINISHED:
            wait = _AFTER_FINISH_SECONDS
        elif reason is WaitReason.MERGING:
            wait = _MERGING_SECONDS
        elif reason in {WaitReason.ROUND_FULL, WaitReason.TOOK_PART}:
            wait = self._typical_seconds - attempt.running_seconds(now)
        else:
            wait = attempt.settings.deadline_seconds / 8
        earliest, latest = self._windows.window(now, wait)
        return ComeBack(reason=reason, earliest_seconds=earliest, latest_seconds=latest)

    def _asked(self, more: int) -> None:
        with self._asking_lock:
            self._asking += more

    # -- by itself

    def _committed(self, work: Work | None) -> None:
        view = self._view
        if work is None or not view.follow(work):
            with self._store.reading() as transaction:
                self._view = View.load(transaction)
        attempt = self._view.attempt
        if attempt.state is AttemptState.CLOSED:
            self._typical_seconds = attempt.running_seconds(attempt.ended_at or 0.0)
            self._wake.set()

    def _keep_house(self) -> None:
        """Deadlines and merges."""
        while not self._ending.is_set():
            self._wake.wait(_TICK_SECONDS)
            self._wake.clear()
            try:
                self.turn()
            except (RavanError, Refusal) as error:
                _log.error("%s; trying again in %g s", error, self._retry_seconds)
                self._ending.wait(self._retry_seconds)

    def _turn(self) -> None:
        attempt = self._view.attempt
        if attempt.at(self._clock()) is not attempt:
            failed = self._view.failed_attempts
            self._writer.submit(lambda work: turn(work, self._rounds, self._settings.seed)).result()
            if self._view.failed_attempts > failed:
                _log.warning(
                    "round %d, attempt %d failed: %d of %d updates at the deadline",
                    attempt.round,
                    attempt.number,
                    attempt.accepted,
                    attempt.settings.enough,
                )
        if self._view.attempt.state is AttemptState.CLOSED:
            self._merge()

    def _merge(self) -> None:
        view = self._view
        attempt = view.attempt
        with self._store.reading() as transaction:
            rows = transaction.tasks(attempt.id)
        updates = [row.update for row in rows if row.state is TaskState.ACCEPTED and row.update]
        version = self._merger.merge(attempt, updates, view.heads, self._clock())
        self._writer.submit(
            lambda work: record_merge(
                work, version, self._rounds, self._settings.seed, self._settings.rounds
            )
        ).result()
        self._update_log.drop(attempt.id)
        _log.info(
            "round %d merged: version %d from %d updates",
            attempt.round,
            version.version,
            len(updates),
        )

    # -- recovery

    def _recover(self) -> None:
        """Begin a run, or go on where the last process ended."""
        now = self._clock()
        with self._store.writing() as transaction:
            run = transaction.run()
            if run is None:
                transaction.begin_run(RunRow(self.artifact.digest, now))
                transaction.add_version(self._first_version(now))
                transaction.add_attempt(Attempt.first(self._rounds, self._settings.seed, now))
            elif run.artifact != self.artifact.digest:
                raise UsageError(
                    f"the state belongs to artifact {run.artifact}, this is {self.artifact.digest}",
                    where="--state",
                    hint="name another folder, or the artifact it was begun with",
                )
            attempt = transaction.attempt()
            if attempt.state is AttemptState.MERGED and attempt.round < self._settings.rounds:
                transaction.add_attempt(attempt.following(self._rounds, self._settings.seed, now))
            elif attempt.state is AttemptState.OPEN:
                transaction.save_attempt(attempt.resumed(now))
            ends: dict[str, int] = {}
            for row in transaction.tasks(attempt.id):
                if row.state is TaskState.ACCEPTED and row.update is not None:
                    end = row.update.offset + row.update.bytes
                    ends[row.update.segment] = max(end, ends.get(row.update.segment, 0))
        self._update_log.recover(attempt.id, ends)

    def _first_version(self, now: float) -> VersionRow:
        """The artifact's own heads, as a version like any other."""
        content = (self.artifact.folder / HEADS_NAME).read_bytes()
        return VersionRow(0, self._blobs.put(content), len(content), None, 0, now)
