"""The log of `ravan serve` for programs."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from ravan_edge.device import ServerConnection
from tests.cli.servers import one_round, serving
from tests.tiny_artifact import Method


def test_every_line_is_an_event(tiny: dict[Method, Path], tmp_path: Path) -> None:
    words = ("--goal", 1, "--rounds", 9, "--log-format", "json")
    with serving(tiny["ravan"], tmp_path / "state", *words) as running:
        one_round(running, tiny["ravan"], 1)
        with ServerConnection(running.url) as connection:
            connection.roll_back(0)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0
    lines = [json.loads(line) for line in running.log.read_text().splitlines()]
    for line in lines:
        assert list(line)[:4] == ["time", "level", "event", "message"]
    # How many files a process may open is the machine's.
    ours = [line for line in lines if line["event"] not in {"other", "few_open_files"}]
    assert [line["event"] for line in ours] == ["listening", "round_merged", "rolled_back", "ended"]
    listening, merged, back, _ = ours
    assert listening["address"] == running.url
    assert (merged["round"], merged["version"], merged["updates"]) == (1, 1, 1)
    assert (back["version"], back["copy_of"]) == (2, 0)
