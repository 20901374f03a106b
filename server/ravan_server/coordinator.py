"""What the server answers to each request: the one object that the network talks to."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from ravan_edge.artifact import Artifact
from ravan_edge.codecs import CodecName
from ravan_edge.errors import ArtifactNotFoundError
from ravan_edge.protocol import (
    CheckIn,
    ComeBack,
    DeviceFailure,
    Reason,
    Receipt,
    Refusal,
    ServerStatus,
    TaskOffer,
    UpdateReader,
    VersionInfo,
    WaitReason,
)
from ravan_server.access.members import Members
from ravan_server.artifact_signature import ExpiryWatch, read_signature
from ravan_server.blobs import ArtifactBlobs
from ravan_server.evaluator import Evaluator
from ravan_server.group_commit import GroupCommit
from ravan_server.history import History, version_info
from ravan_server.housekeeper import Housekeeper
from ravan_server.latest_view import LatestView
from ravan_server.merging import Merger
from ravan_server.meters import Meters
from ravan_server.offers import check_protocol, choose_plan, task_offer
from ravan_server.operations import (
    CheckedUpdate,
    accept_update,
    assign,
    check_owner,
    give_back,
    go_back,
    probe,
    record_scores,
    refuse_ended,
)
from ravan_server.parts import Parts
from ravan_server.readiness import Readiness
from ravan_server.recovery import recover
from ravan_server.rounds import AttemptState
from ravan_server.store import SCORING, TaskRow, VersionRow
from ravan_server.view import View
from ravan_server.waiting import Waiting

__all__ = ["Coordinator"]

_log = logging.getLogger(__name__)


class Coordinator:
    """A run: its rounds, its devices, its versions.

    Opening it recovers what a killed process left behind. Nothing runs before :meth:`start`.

    Args:
        parts: What the run is made of.
        evaluation: Options of ``ravan eval`` that name the rows on which versions are scored; none: they
            are not.

    Raises:
        UsageError: The state belongs to another artifact.
        ArtifactError: The artifact's signature is wrong, of another one, or has expired.
        StorageError: It cannot be read or written.
    """

    def __init__(self, parts: Parts, evaluation: Sequence[str] = ()) -> None:
        self._parts = parts
        self._store = parts.store
        self._clock = parts.clock
        self._settings = parts.settings
        self._files = ArtifactBlobs(parts.artifact)
        self._merger = Merger(parts)
        self._waiting = Waiting(parts.settings, parts.clock, parts.meters)
        signature = read_signature(parts.artifact, parts.wall_clock())
        recover(parts)
        # A copy: in the artifact's folder it may be renewed while devices ask for this one.
        self._signature = None if signature is None else parts.blobs.put(signature.content)
        self._latest = LatestView(self._store, self._changed, self._shut_out)
        self._writer = GroupCommit(
            self._store,
            parts.log,
            self._clock,
            self._latest.committed,
            self._latest.at,
            parts.meters,
        )
        self.history = History(self._store, self._clock)
        self.members = Members(self._store, self._writer)
        self._housekeeper = Housekeeper(
            parts,
            self._writer,
            self._merger,
            lambda: self._view,
            self._latest.look,
            ExpiryWatch(signature),
            frozenset() if self._signature is None else frozenset({self._signature}),
        )
        self._evaluator = None
        if evaluation:
            self._evaluator = Evaluator(
                parts.artifact,
                evaluation,
                parts.blobs.path,
                self._record_scores,
                parts.meters,
                lambda: self._store.only_one(SCORING),
                self._is_scored,
            )
        self.readiness = Readiness(
            {"writer": lambda: self._writer.alive, "housekeeper": lambda: self._housekeeper.alive},
            lambda: self._writer.submit(probe),
            time.monotonic,
        )
        self.meters.watch_status(self.status)
        self._seen = self._view.heads
        self.meters.scored(self._seen.scores)

    @property
    def artifact(self) -> Artifact:
        """What devices train."""
        return self._parts.artifact

    @property
    def reader(self) -> UpdateReader:
        """Checks and reads its updates."""
        return self._parts.reader

    @property
    def meters(self) -> Meters:
        """What is counted."""
        return self._parts.meters

    def start(self) -> None:
        """Begin to work."""
        self._writer.start()
        self._housekeeper.start()
        if self._evaluator is not None:
            self._evaluator.start()
            self._evaluate(self._view.heads)

    def stop(self) -> None:
        """Finish what was begun, and end."""
        self._housekeeper.stop()
        if self._evaluator is not None:
            self._evaluator.stop()
        self._writer.stop()
        self._parts.log.close()
        self._store.close()

    def turn(self) -> None:
        """Look at the clock now; the server does so by itself several times a second.

        Raises:
            Refusal: The store could not be written.
            RavanError: A merge failed; nothing is lost, it is tried again.
        """
        self._housekeeper.turn()

    def blob(self, digest: str) -> Path:
        """A file with this content.

        Raises:
            Refusal: There is none.
        """
        path = self.blob_at_hand(digest)
        if path is None and self._is_kept(digest):
            path = self._parts.blobs.path(digest)
        if path is None:
            raise Refusal(Reason.NO_SUCH_BLOB, f"there is no blob {digest[:64]}")
        return path

    def blob_at_hand(self, digest: str) -> Path | None:
        """The same without waiting; None: there is none, or it has to be fetched."""
        return self._files.path(digest) or self._parts.blobs.cached(digest)

    def check_in(self, check_in: CheckIn) -> ComeBack | Future[TaskRow | WaitReason]:
        """A window to come back in, at once; or the promise of an answer (see :meth:`answer`).

        Raises:
            Refusal: Another protocol, or no common plan.
        """
        check_protocol(check_in.protocol)
        plan = choose_plan(check_in, self.artifact)
        view = self._view
        reason = self._waiting.reason(view, check_in)
        if reason is not None:
            return self._come_back(reason, check_in.device)
        known = view.task_of.get(check_in.device)
        if known is not None:
            # The task it has: it is durable, or it would not be here. Were it over in this very moment,
            # its upload would be told so.
            answered: Future[TaskRow | WaitReason] = Future()
            answered.set_result(known)
            return answered
        self._waiting.asked(1)
        future = self._writer.submit(
            lambda work: assign(work, check_in, plan), device=check_in.device
        )
        future.add_done_callback(lambda _: self._waiting.asked(-1))
        return future

    def answer(self, found: TaskRow | WaitReason, device: str) -> TaskOffer | ComeBack:
        """What to say to a device after the promise of :meth:`check_in` came true."""
        if isinstance(found, WaitReason):
            return self._come_back(found, device)
        origin = self._view.origin(found)
        if origin is None:
            return self._come_back(WaitReason.MERGING, device)  # the round ended just now
        attempt, heads = origin
        self.meters.check_in(None)
        return task_offer(
            found,
            attempt,
            heads,
            self.artifact,
            self._signature,
            self.reader.largest_bytes,
            self._clock(),
        )

    def now(self) -> float:
        """Seconds since 1970 by the system's clock, with which signed moments are compared."""
        return self._parts.wall_clock()

    def task(self, task: str, device: str | None = None) -> TaskRow:
        """A task whose update is about to be sent: known, and worth receiving or comparing.

        Args:
            task: Its id.
            device: Who asks, where that is known: to others it is no task.

        Raises:
            Refusal: There is no such task, or it ended without an update.
        """
        row = self._view.tasks.get(task)
        if row is None:
            self._latest.look()  # another process may have given it out a moment ago
            row = self._view.tasks.get(task)
        if row is None:
            with self._store.reading() as transaction:
                row = transaction.task(task)
        row = check_owner(row, task, device)
        if row.update is None:
            refuse_ended(row)
        return row

    def codec_of(self, row: TaskRow) -> CodecName | None:
        """The codec of a task's update; None: its attempt is over."""
        origin = self._view.origin(row)
        return None if origin is None else origin[0].settings.upload.codec

    def accept(self, task: str, update: CheckedUpdate) -> Future[Receipt]:
        """Store an update; the future is done when it is durable."""
        return self._writer.submit(lambda work: accept_update(work, task, update))

    def give_back(
        self, task: str, failure: DeviceFailure, device: str | None = None
    ) -> Future[None]:
        """A device cannot do its task; ``device`` as for :meth:`task`."""
        promise = self._writer.submit(lambda work: give_back(work, task, failure, device))
        promise.add_done_callback(partial(self._given_back, failure))
        return promise

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
            mode="async" if attempt.is_async else "sync",
            goal=attempt.settings.updates,
            training=attempt.training,
            accepted=attempt.accepted,
            failed_attempts=view.failed_attempts,
            deadline_seconds=attempt.remaining_seconds(self._clock()) if is_open else None,
        )

    def versions(self) -> list[VersionInfo]:
        """All versions, the latest first."""
        return self.history.versions()

    def go_back(self, version: int) -> VersionInfo:
        """Make an older version's heads the latest again, as a new version.

        What devices are training meanwhile is not wanted any more: their attempt ends.

        Raises:
            Refusal: There is no such version, or its heads are gone.
        """
        while True:
            with self._store.reading() as transaction:
                since = transaction.revision
                source, latest = transaction.version(version), transaction.latest_version()
            if source is None or source.deleted:
                raise Refusal(
                    Reason.NO_SUCH_VERSION,
                    f"version {version} is not kept: `ravan heads list` shows those that are",
                )
            try:
                row = self._merger.copy(source, latest.version + 1, self._clock())
            except ArtifactNotFoundError:  # the retention rule was quicker, or the file is lost
                detail = f"the heads of version {version} are gone"
                raise Refusal(Reason.NO_SUCH_VERSION, detail) from None
            operation = partial(
                go_back,
                version=row,
                settings=self._parts.rounds,
                seed=self._settings.seed,
                since=since,
            )
            if self._writer.submit(operation).result():
                return version_info(row)

    @property
    def _view(self) -> View:
        return self._latest.view

    def _is_kept(self, digest: str) -> bool:
        """Whether devices may ask for a blob; whoever asks for another one costs no more than this."""
        if digest in {self._signature, self._view.heads.heads}:
            return True
        with self._store.reading() as transaction:
            return transaction.keeps(digest)

    def _come_back(self, reason: WaitReason, device: str) -> ComeBack:
        return self._waiting.come_back(self._view.attempt, reason, device)

    def _changed(self, view: View) -> None:
        attempt, heads = view.attempt, view.heads
        if attempt.state is AttemptState.CLOSED:
            self._waiting.closed(attempt)
            self._housekeeper.wake()
        if heads is not self._seen:
            self._seen = heads
            self.meters.scored(heads.scores)
            self._evaluate(heads)

    def _shut_out(self, device: str) -> None:
        self.members.keyring.forget(device)

    def _is_scored(self, version: int) -> bool:
        with self._store.reading() as transaction:
            row = transaction.version(version)
        return row is None or row.scores is not None

    def _evaluate(self, version: VersionRow) -> None:
        if self._evaluator is not None and version.scores is None:
            self._evaluator.add(version)

    def _record_scores(self, version: int, scores: str) -> None:
        self._writer.submit(lambda work: record_scores(work, version, scores)).result()
        self.meters.scored(scores)

    def _given_back(self, failure: DeviceFailure, promise: Future[None]) -> None:
        if not promise.cancelled() and promise.exception() is None:
            self.meters.given_back(failure.reason)
