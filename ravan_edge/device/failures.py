"""What can end a task, and what a server is told of it."""

from __future__ import annotations

from ravan_edge.errors import (
    DataError,
    MemoryLimitError,
    NetworkError,
    NumericsError,
    WorkerError,
)
from ravan_edge.protocol import FailureReason, Refusal

__all__ = ["ConditionsError", "TooLateError", "failure_reason", "is_transient"]


class TooLateError(Exception):
    """The deadline has passed: whatever is trained now, nobody wants it."""


class ConditionsError(Exception):
    """The conditions ended and did not come back before the deadline."""


_REASONS: tuple[tuple[type[Exception], FailureReason], ...] = (
    (NumericsError, FailureReason.BAD_NUMBERS),
    (MemoryLimitError, FailureReason.OUT_OF_MEMORY),
    (ConditionsError, FailureReason.CONDITIONS),
    (DataError, FailureReason.DATA),
    (WorkerError, FailureReason.CRASHED),
)


def failure_reason(error: Exception) -> FailureReason:
    """Why a task is given back, in the words of the protocol."""
    found = (reason for kind, reason in _REASONS if isinstance(error, kind))
    return next(found, FailureReason.OTHER)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may be answered another time."""
    if isinstance(error, Refusal):
        return not error.problem.permanent
    return isinstance(error, NetworkError)
