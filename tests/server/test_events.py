"""One line per event, for people or for programs."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ravan_server.events import Event, LogFormat, configure_logs, log_event

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "server.md").read_text("utf-8")
SERVER = Path(__file__).resolve().parents[2] / "server" / "ravan_server"


@contextmanager
def logs(form: LogFormat) -> Iterator[io.StringIO]:
    """What a process that logs only for itself would write."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        configure_logs(form, stream)
        yield stream
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def test_a_line_for_people() -> None:
    text = "round %(round)d done"
    with logs(LogFormat.TEXT) as stream:
        log_event(logging.getLogger("x"), logging.WARNING, Event.ROUND_MERGED, text, round=3)
    assert re.fullmatch(r"\S+ \S+ WARNING round 3 done\n", stream.getvalue())


def test_a_line_for_programs() -> None:
    logger = logging.getLogger("x")
    text = "round %(round)d: 100 %% of %(what)s"
    with logs(LogFormat.JSON) as stream:
        log_event(logger, logging.INFO, Event.ROUND_MERGED, text, round=3, what="a\nb\u2028c")
        log_event(logger, logging.INFO, Event.ENDED, "the end, 100 %")
        logger.error("of another library: %s", "words")
        try:
            int("a bug")
        except ValueError:
            log_event(logger, logging.ERROR, Event.ROUND_TROUBLE, "a bug", trace=True, level="mine")
    first, second, third, last = map(json.loads, stream.getvalue().splitlines())
    age = datetime.now(UTC) - datetime.fromisoformat(first.pop("time"))
    assert 0 <= age.total_seconds() < 60
    assert first == {
        "level": "info",
        "event": "round_merged",
        "message": "round 3: 100 % of a\nb\u2028c",
        "round": 3,
        "what": "a\nb\u2028c",
    }
    assert (second["event"], second["message"]) == ("ended", "the end, 100 %")
    assert (third["event"], third["message"]) == ("other", "of another library: words")
    assert last["level"] == "error"
    assert "ValueError: invalid literal" in last["trace"]


def test_every_event_is_said_somewhere_and_is_on_the_page() -> None:
    said = {
        node.attr
        for path in SERVER.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Event"
    }
    assert said == {event.name for event in Event}
    table = PAGE.split("### The log")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE)
    assert documented == [event.value for event in Event]


def test_nothing_is_logged_but_events() -> None:
    for path in SERVER.rglob("*.py"):
        if path.name != "events.py":
            assert not re.search(
                r"_log\.(debug|info|warning|error|exception|critical|log)\(",
                path.read_text("utf-8"),
            ), path
