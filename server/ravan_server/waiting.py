"""Why a device gets no task now, and when it is to come back."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ravan_edge.protocol import CheckIn, ComeBack, WaitReason
from ravan_server.meters import Meters
from ravan_server.offers import meets_conditions
from ravan_server.rounds import Attempt, AttemptState
from ravan_server.settings import ServerSettings
from ravan_server.store import TaskState
from ravan_server.view import View
from ravan_server.windows import ReturnWindows

__all__ = ["Waiting"]

_MOST_TRIES = 10  # for each place of an attempt
_MORE_TRIES = 1000
_MERGING_SECONDS = 2.0
_AFTER_FINISH_SECONDS = 3600.0


class Waiting:
    """Sends devices away, from any thread.

    Args:
        settings: Of the server.
        clock: Seconds since 1970.
        meters: What counts them.
    """

    def __init__(
        self, settings: ServerSettings, clock: Callable[[], float], meters: Meters
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._meters = meters
        self._windows = ReturnWindows(settings.check_ins_per_second)
        self._asking = 0
        self._lock = threading.Lock()
        self._typical_seconds = 0.0

    def asked(self, more: int) -> None:
        """So many more devices wait for the store to give them a task."""
        with self._lock:
            self._asking += more

    def closed(self, attempt: Attempt) -> None:
        """An attempt has its updates: the next ones may take as long."""
        self._typical_seconds = attempt.running_seconds(attempt.ended_at or 0.0)

    def reason(self, view: View, check_in: CheckIn) -> WaitReason | None:
        """Why a device gets no task, as far as the copy in memory knows: the way that costs nothing."""
        attempt = view.attempt
        if attempt.state is AttemptState.MERGED:
            return WaitReason.FINISHED
        if attempt.state is AttemptState.CLOSED:
            return WaitReason.MERGING
        known = view.task_of.get(check_in.device)
        if known is not None:
            return None if known.state is TaskState.TRAINING else WaitReason.TOOK_PART
        if attempt.free_places <= self._asking:
            return WaitReason.ROUND_FULL
        # A place that is given back is free again, but its task is kept: ever new ids that take one
        # and give it back would fill memory and disk.
        if len(view.tasks) >= _MOST_TRIES * attempt.settings.places + _MORE_TRIES:
            return WaitReason.ROUND_FULL
        if not meets_conditions(check_in, self._settings):
            return WaitReason.CONDITIONS
        return None

    def come_back(self, attempt: Attempt, reason: WaitReason, device: str) -> ComeBack:
        """The window of a device, which is of this second.

        Args:
            attempt: The latest.
            reason: Why it has to wait.
            device: Who it is.
        """
        self._meters.check_in(reason)
        now = self._clock()
        self._windows.arrived(device, now)
        if reason is WaitReason.FINISHED:
            wait = _AFTER_FINISH_SECONDS
        elif reason is WaitReason.MERGING:
            wait = _MERGING_SECONDS
        elif reason is WaitReason.ROUND_FULL and attempt.is_async:
            # About that often a place is free, were all devices alike.
            wait = self._typical_seconds / attempt.settings.updates
        elif reason in {WaitReason.ROUND_FULL, WaitReason.TOOK_PART}:
            wait = self._typical_seconds - attempt.running_seconds(now)
        else:
            wait = attempt.settings.deadline_seconds / 8
        earliest, latest = self._windows.window(now, wait)
        return ComeBack(reason=reason, earliest_seconds=earliest, latest_seconds=latest)
