"""What the server says in its log: one line per event, for people or for programs.

An event has a name that stays, a sentence for people, and fields for programs; the sentence is made of the
fields, so nothing is said twice. No secret is ever a field.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TextIO

__all__ = ["Event", "LogFormat", "configure_logs", "log_event"]

_TEXT = "%(asctime)s %(levelname)s %(message)s"
_FIRST = ("time", "level", "event", "message")


class LogFormat(StrEnum):
    """How a line of the log is written."""

    TEXT = "text"
    JSON = "json"


class Event(StrEnum):
    """What can happen."""

    LISTENING = "listening"
    JOINED = "joined"
    ENDED = "ended"
    ROUND_MERGED = "round_merged"
    ATTEMPT_FAILED = "attempt_failed"
    ROUND_TROUBLE = "round_trouble"
    ROLLED_BACK = "rolled_back"
    VERSION_SCORED = "version_scored"
    EVALUATION_FAILED = "evaluation_failed"
    DEVICES_INVITED = "devices_invited"
    DEVICE_ENROLLED = "device_enrolled"
    DEVICE_REVOKED = "device_revoked"
    LOGIN_FAILED = "login_failed"
    LOGIN_LOCKED = "login_locked"
    LINES_LEFT_OUT = "lines_left_out"
    SIGNATURE_ENDING = "signature_ending"
    SIGNATURE_ENDED = "signature_ended"
    STORAGE_FAILED = "storage_failed"
    SCHEMA_CHANGED = "schema_changed"
    DATABASE_UNSAFE = "database_unsafe"
    FEW_OPEN_FILES = "few_open_files"
    CONNECTION_LOST = "connection_lost"
    OTHER = "other"


def log_event(
    logger: logging.Logger,
    level: int,
    event: Event,
    text: str,
    /,
    *,
    trace: bool = False,
    **fields: str | float | None,
) -> None:
    """Say what happened.

    Args:
        logger: Of the module in which it did.
        level: As :mod:`logging` has them.
        event: What it is.
        text: For people: a format of the fields, ``"round %(round)d merged"``.
        trace: Whether to add the exception that is being handled.
        **fields: For programs.
    """
    # With one mapping as its argument, logging formats by name.
    logger.log(level, text, *([fields] if fields else []), extra={"event": event}, exc_info=trace)


def configure_logs(form: LogFormat, stream: TextIO | None = None) -> None:
    """Write the log of this process, from INFO on.

    Args:
        form: Of its lines.
        stream: Where to; None: stderr.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(_JsonLines() if form is LogFormat.JSON else logging.Formatter(_TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _JsonLines(logging.Formatter):
    """One JSON object on one line: time (UTC), level, event, message, then the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": str(getattr(record, "event", Event.OTHER)),
            "message": record.getMessage(),
        }
        if isinstance(record.args, Mapping):
            said |= {name: value for name, value in record.args.items() if name not in _FIRST}
        if record.exc_info:
            said["trace"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(said)  # ASCII: no character of a text can break the line
