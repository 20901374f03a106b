"""What became of attempts, in tables: sums over many rows, for those who watch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, case, func, literal, select

from ravan_edge.protocol import FailureReason
from ravan_server.rounds import Attempt
from ravan_server.store import schema
from ravan_server.store.rows import TaskCount, TaskRow, TaskState

__all__ = ["SqlHistory"]


class SqlHistory:
    """:class:`ravan_server.store.History` on one connection.

    Args:
        connection: Inside a transaction.
        attempt: Makes an attempt of a row.
        task: Makes a task of a row.
    """

    def __init__(
        self,
        connection: Connection,
        attempt: Callable[[Mapping[str, Any]], Attempt],
        task: Callable[[Mapping[str, Any]], TaskRow],
    ) -> None:
        self._connection = connection
        self._attempt = attempt
        self._task = task

    def attempts(self, after: int, most: int) -> Sequence[Attempt]:
        """The first ``most`` attempts behind an id, ascending."""
        table = schema.attempts
        statement = select(table).where(table.c.id > after).order_by(table.c.id).limit(most)
        return [self._attempt(dict(row)) for row in self._connection.execute(statement).mappings()]

    def task_counts(self, first: int, last: int) -> Sequence[TaskCount]:
        """Tasks of these attempts, counted by attempt, state and reason."""
        return [*self._given_out(first, last), *self._counted_in(first, last)]

    def _given_out(self, first: int, last: int) -> list[TaskCount]:
        """Those without an update, by the attempt that gave them out."""
        table = schema.tasks
        # A device's own words follow the reason: they are no key.
        reason = case(
            *[
                (table.c.failure.startswith(each, autoescape=True), literal(str(each)))
                for each in FailureReason
            ],
        )
        statement = (
            select(
                table.c.attempt,
                table.c.state,
                reason.label("reason"),
                func.count().label("tasks"),
            )
            .where(table.c.attempt.between(first, last), table.c.counted_in.is_(None))
            .group_by(table.c.attempt, table.c.state, reason)
            .order_by(table.c.attempt)
        )
        return [
            TaskCount(row.attempt, TaskState(row.state), row.reason, row.tasks, 0, 0)
            for row in self._connection.execute(statement)
        ]

    def _counted_in(self, first: int, last: int) -> list[TaskCount]:
        """Those with an update, by the attempt that it came to."""
        tasks, attempts = schema.tasks, schema.attempts
        statement = (
            select(
                tasks.c.counted_in,
                tasks.c.state,
                func.count().label("tasks"),
                func.sum(tasks.c.bytes).label("bytes"),
                func.sum(attempts.c.version - tasks.c.version).label("staleness"),
            )
            .join(attempts, attempts.c.id == tasks.c.counted_in)
            .where(tasks.c.counted_in.between(first, last))
            .group_by(tasks.c.counted_in, tasks.c.state)
            .order_by(tasks.c.counted_in)
        )
        return [
            TaskCount(
                row.counted_in,
                TaskState(row.state),
                None,
                row.tasks,
                int(row.bytes),
                int(row.staleness),
            )
            for row in self._connection.execute(statement)
        ]

    def versions_made(self, first: int, last: int) -> Mapping[int, int]:
        """The versions that these attempts made, by attempt."""
        table = schema.versions
        statement = select(table.c.attempt, table.c.version).where(
            table.c.attempt.between(first, last)
        )
        return {row.attempt: row.version for row in self._connection.execute(statement)}

    def tasks(self, attempt: int, after: int, most: int) -> Sequence[TaskRow]:
        """Tasks of an attempt in the order of their assignment, without the first ``after``."""
        table = schema.tasks
        statement = (
            select(table)
            .where(table.c.attempt == attempt)
            .order_by(table.c.assigned_at, table.c.task)
            .offset(after)
            .limit(most)
        )
        return [self._task(dict(row)) for row in self._connection.execute(statement).mappings()]
