"""What happened, for those who watch: versions, attempts, tasks, each as a message of the protocol."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from ravan_edge.protocol import (
    AttemptInfo,
    Attempts,
    DeviceFailure,
    FailureReason,
    TaskInfo,
    Tasks,
    VersionInfo,
)
from ravan_server.http.answers import moment
from ravan_server.rounds import Attempt, AttemptState
from ravan_server.store import Store, TaskCount, TaskRow, TaskState, VersionRow

__all__ = ["History", "version_info"]

_MOST_ATTEMPTS = 200
_MOST_TASKS = 500
_MOST_DETAIL = 500  # what a message can hold


class History:
    """Reads the store; any thread may ask.

    Args:
        store: What happened.
        clock: Seconds since 1970.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    def versions(self) -> list[VersionInfo]:
        """All versions, the latest first."""
        with self._store.reading() as transaction:
            rows = transaction.versions()
        return [version_info(row) for row in reversed(rows)]

    def attempts(self, after: int | None) -> Attempts:
        """At most 200 attempts, ascending.

        Args:
            after: The entry behind which they begin; None: the latest.
        """
        with self._store.reading() as transaction:
            if after is None:
                after = max(0, transaction.attempt().id - _MOST_ATTEMPTS)
            found = transaction.history.attempts(after, _MOST_ATTEMPTS + 1)
            shown = found[:_MOST_ATTEMPTS]
            if not shown:
                return Attempts(attempts=())
            first, last = shown[0].id, shown[-1].id
            counts = transaction.history.task_counts(first, last)
            made = transaction.history.versions_made(first, last)
        of_attempt: dict[int, list[TaskCount]] = defaultdict(list)
        for count in counts:
            of_attempt[count.attempt].append(count)
        now = self._clock()
        return Attempts(
            attempts=tuple(
                _attempt_info(each, of_attempt[each.id], made.get(each.id), now) for each in shown
            ),
            after=last if len(found) > len(shown) else None,
        )

    def tasks(self, entry: int, after: int) -> Tasks:
        """At most 500 tasks of an attempt, in the order in which they were given.

        Args:
            entry: The attempt; one that there is not has no tasks.
            after: How many to leave out.
        """
        with self._store.reading() as transaction:
            found = transaction.history.tasks(entry, after, _MOST_TASKS + 1)
        now = self._clock()
        return Tasks(
            tasks=tuple(_task_info(row, now) for row in found[:_MOST_TASKS]),
            after=after + _MOST_TASKS if len(found) > _MOST_TASKS else None,
        )


def version_info(row: VersionRow) -> VersionInfo:
    """A version as a message."""
    return VersionInfo(
        version=row.version,
        heads=row.heads,
        bytes=row.bytes,
        updates=row.updates,
        made_at=moment(row.made_at),
        copy_of=row.copy_of,
        available=not row.deleted,
        scores=None if row.scores is None else json.loads(row.scores),
        heads_kept=row.heads_kept,
    )


def _attempt_info(
    attempt: Attempt, counts: Sequence[TaskCount], made: int | None, now: float
) -> AttemptInfo:
    def tasks(state: TaskState) -> int:
        return sum(each.tasks for each in counts if each.state is state)

    ended = now if attempt.ended_at is None else attempt.ended_at
    began = attempt.deadline_at is not None
    return AttemptInfo(
        entry=attempt.id,
        round=attempt.round,
        attempt=attempt.number,
        state=attempt.state.value,
        failure=_failure(attempt),
        version=attempt.version,
        made=made,
        opened_at=moment(attempt.opened_at),
        seconds=attempt.running_seconds(ended) if began else None,
        goal=attempt.settings.updates,
        places=attempt.settings.places,
        training=tasks(TaskState.TRAINING),
        stored=tasks(TaskState.ACCEPTED),
        merged=tasks(TaskState.MERGED),
        late=tasks(TaskState.LATE),
        stale=tasks(TaskState.STALE),
        unused=tasks(TaskState.UNUSED),
        given_back=_reasons(each for each in counts if each.state is TaskState.GIVEN_BACK),
        bytes=sum(each.bytes for each in counts),
        mean_staleness=_mean_staleness(counts) if attempt.is_async else None,
    )


def _mean_staleness(counts: Sequence[TaskCount]) -> float | None:
    merged = [each for each in counts if each.state is TaskState.MERGED]
    tasks = sum(each.tasks for each in merged)
    return sum(each.staleness for each in merged) / tasks if tasks else None


def _failure(attempt: Attempt) -> Literal["deadline", "rollback"] | None:
    if attempt.state is not AttemptState.FAILED:
        return None
    at_deadline = (
        attempt.deadline_at is not None and (attempt.ended_at or 0.0) >= attempt.deadline_at
    )
    return "deadline" if at_deadline else "rollback"


def _reasons(counts: Iterable[TaskCount]) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for each in counts:
        found[each.reason or FailureReason.OTHER.value] += each.tasks
    return dict(sorted(found.items()))


def _task_info(row: TaskRow, now: float) -> TaskInfo:
    ended = now if row.ended_at is None else row.ended_at
    stored = row.update
    return TaskInfo(
        device=row.device,
        number=row.number,
        plan=row.plan,
        version=row.version,
        state=row.state.value,
        seconds=max(0.0, ended - row.assigned_at),
        bytes=None if stored is None else stored.bytes,
        examples=None if stored is None else stored.examples,
        steps=None if stored is None else stored.steps,
        failure=None if row.failure is None else _device_failure(row.failure),
    )


def _device_failure(text: str) -> DeviceFailure:
    """What :func:`ravan_server.operations.give_back` wrote: the reason, and a detail behind a colon."""
    reason, _, detail = text.partition(": ")
    if reason not in set(FailureReason):
        reason, detail = FailureReason.OTHER.value, text
    return DeviceFailure(reason=FailureReason(reason), detail=detail[:_MOST_DETAIL])
