"""When devices are asked to come back: by how many there are, not by how often they ask."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravan_edge.artifact import Artifact
from ravan_edge.protocol import ComeBack
from ravan_server.settings import RoundSettings, ServerSettings
from ravan_server.windows import ReturnWindows
from tests.server.server_kit import Clock, ask, opened_server
from tests.tiny_artifact import make_tiny_artifact

MOMENTS = st.lists(st.tuples(st.integers(0, 5), st.floats(0, 20)), min_size=1, max_size=60)


def test_one_device_that_asks_very_often_stretches_nobody_s_window() -> None:
    windows = ReturnWindows(per_second=10)
    for number in range(100):
        windows.arrived(f"device-{number}", now=0.0)
    _, before = windows.window(now=0.0, wait=0.0)
    assert before == 10
    for tick in range(50_000):  # for 50 seconds, more often than it may with a login
        windows.arrived("device-0", now=tick / 1000)
        if not tick % 1000:
            windows.window(now=tick / 1000, wait=0.0)
    for number in range(100):
        windows.arrived(f"device-{number}", now=50.0)
    assert windows.window(now=50.0, wait=0.0) == (0, 10)


def test_the_window_still_grows_with_the_number_of_devices() -> None:
    windows = ReturnWindows(per_second=10)
    for number in range(500):
        windows.arrived(f"device-{number}", now=number / 1000)
    assert windows.window(now=0.5, wait=0.0) == (0, 50)


@given(MOMENTS)
def test_each_device_counts_at_its_latest_second(asked: list[tuple[int, float]]) -> None:
    """The slow twin: a dictionary of when each was last here."""
    windows, latest, now = ReturnWindows(per_second=1), {}, 0.0
    spread = 2.0
    for device, moment in asked:
        now = max(now, moment)
        windows.arrived(f"{device}", now)
        latest[device] = int(now)
        since = now - max(1.0, spread) - 1
        expected = sum(second >= since for second in latest.values())
        assert windows.waiting(now) == expected
        spread = max(2.0, float(expected))
        assert windows.window(now, 0.0) == (0.0, spread)


def test_memory_is_bounded_whatever_devices_call_themselves() -> None:
    windows = ReturnWindows(per_second=10, most_devices=100)
    for number in range(20_000):
        windows.arrived(f"device-{number}", now=float(number))
    assert len(windows._latest) == 100
    assert len(windows._arrivals) <= 3602
    # Of more devices than are known apart each arrival counts: nobody is forgotten who is there.
    assert windows.waiting(now=20_000.0) >= 1


def test_a_clock_that_goes_back_loses_nobody() -> None:
    windows = ReturnWindows(per_second=1)
    windows.arrived("one", now=100.0)
    windows.arrived("two", now=50.0)
    windows.arrived("one", now=50.0)
    assert windows.waiting(now=100.0) == 2


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("windows") / "artifact")


def test_a_device_that_hammers_the_server_changes_nothing_for_others(
    artifact: Artifact, tmp_path: Path
) -> None:
    rounds = RoundSettings(goal=1, over_selection=1)
    settings = ServerSettings(check_ins_per_second=1)
    with opened_server(artifact, tmp_path / "state", Clock(), rounds, settings) as server:
        assert ask(server, "device-000").answer == "task"
        for _ in range(1000):
            hammering = ask(server, "device-666")
        other = ask(server, "device-001")
        for answer in (hammering, other):
            assert isinstance(answer, ComeBack)
            assert answer.latest_seconds - answer.earliest_seconds == 2
