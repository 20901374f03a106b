"""The rules of a round, against a plain list of what happened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravan_edge.errors import UsageError
from ravan_edge.training import LocalSettings
from ravan_server.rounds import Attempt, AttemptState
from ravan_server.settings import RoundSettings

SETTINGS = RoundSettings(goal=3, over_selection=1.5, minimum=2, deadline_seconds=100)


def attempt(settings: RoundSettings = SETTINGS) -> Attempt:
    return Attempt.first(settings, seed=7, now=10.0)


def test_a_round_gives_out_as_many_tasks_as_its_over_selection_says() -> None:
    found = attempt()
    assert SETTINGS.places == 5
    for taken in range(5):
        assert found.free_places == 5 - taken
        found = found.assigned(20.0)
    assert found.free_places == 0


def test_the_goal_closes_a_round_and_nothing_more_is_given_out() -> None:
    found = attempt()
    for _ in range(4):
        found = found.assigned(20.0)
    for count in range(1, 4):
        assert found.state is AttemptState.OPEN
        found = found.stored(30.0 + count)
    assert found.state is AttemptState.CLOSED
    assert (found.accepted, found.training, found.ended_at) == (3, 1, 33.0)
    assert found.free_places == 0
    assert found.at(10_000.0) == found, "a deadline ends only what is open"


def test_the_deadline_counts_from_the_first_task() -> None:
    found = attempt()
    assert found.at(1e9) == found, "nobody was asked yet"
    assert found.remaining_seconds(1e9) == 100
    found = found.assigned(50.0)
    assert found.remaining_seconds(60.0) == 90
    assert found.running_seconds(60.0) == 10
    assert found.assigned(140.0).deadline_at == 150.0
    assert found.at(149.9) == found
    assert found.at(150.0).state is AttemptState.FAILED


@pytest.mark.parametrize(
    ("stored", "state"),
    [(0, AttemptState.FAILED), (1, AttemptState.FAILED), (2, AttemptState.CLOSED)],
)
def test_at_the_deadline_the_minimum_decides(stored: int, state: AttemptState) -> None:
    found = attempt()
    for _ in range(4):
        found = found.assigned(20.0)
    for _ in range(stored):
        found = found.stored(30.0)
    assert found.at(120.0).state is state


def test_a_task_that_is_given_back_frees_its_place() -> None:
    found = attempt()
    for _ in range(5):
        found = found.assigned(20.0)
    assert found.given_back().free_places == 1


def test_what_follows_a_failed_attempt_has_the_same_version_and_another_number() -> None:
    other = RoundSettings(local=LocalSettings(lr=1e-2), goal=9)
    failed = attempt().assigned(20.0).at(120.0)
    found = failed.following(0, other, seed=8, now=130.0)
    assert (found.id, found.round, found.number, found.version) == (2, 1, 2, 0)
    assert (found.settings, found.seed, found.opened_at) == (other, 8, 130.0)
    assert (found.state, found.deadline_at, found.accepted) == (AttemptState.OPEN, None, 0)


def test_what_follows_a_merged_attempt_starts_from_its_version() -> None:
    found = attempt(RoundSettings(goal=1)).assigned(20.0).stored(21.0).merged()
    after = found.following(1, SETTINGS, seed=7, now=30.0)
    assert (after.id, after.round, after.number, after.version) == (2, 2, 1, 1)


def test_a_restart_gives_devices_the_whole_time_again() -> None:
    assert attempt().resumed(500.0) == attempt(), "nobody waits"
    assert attempt().assigned(20.0).resumed(500.0).deadline_at == 600.0
    closed = attempt(RoundSettings(goal=1)).assigned(20.0).stored(21.0)
    assert closed.resumed(500.0) == closed


@given(
    goal=st.integers(1, 6),
    over=st.floats(1, 3),
    minimum=st.integers(1, 6),
    events=st.lists(st.sampled_from(["assign", "store", "give back", "time"]), max_size=40),
)
def test_counts_are_those_of_a_list(
    goal: int, over: float, minimum: int, events: list[str]
) -> None:
    settings = RoundSettings(
        goal=goal, over_selection=over, minimum=min(goal, minimum), deadline_seconds=10
    )
    found, now = attempt(settings), 100.0
    training, stored, first = 0, 0, None
    for event in events:
        now += 1.0
        found = found.at(now)
        late = first is not None and now >= first + 10
        is_open = stored < goal and not late
        assert (found.state is AttemptState.OPEN) == is_open
        if not is_open:
            assert found.state is (
                AttemptState.CLOSED if stored >= min(goal, minimum) else AttemptState.FAILED
            )
            return
        assert found.free_places == max(0, settings.places - training - stored)
        if event == "assign" and found.free_places:
            found, training = found.assigned(now), training + 1
            first = now if first is None else first
        elif event == "store" and training:
            found, training, stored = found.stored(now), training - 1, stored + 1
        elif event == "give back" and training:
            found, training = found.given_back(), training - 1
        assert (found.training, found.accepted) == (training, stored)
    assert found.scale.power + found.scale.bound_exponent + (goal - 1).bit_length() == 62


def test_settings_survive_the_store() -> None:
    settings = RoundSettings(local=LocalSettings(lr=3e-3, clip_norm=1.0), goal=7, minimum=2)
    assert RoundSettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"goal": 0}, "--goal"),
        ({"over_selection": 0.9}, "--over-selection"),
        ({"goal": 2, "minimum": 3}, "--minimum"),
        ({"deadline_seconds": 0.0}, "--deadline-seconds"),
        ({"deadline_seconds": float("nan")}, "--deadline-seconds"),
    ],
)
def test_bad_settings_are_refused_by_name(values: dict[str, float], option: str) -> None:
    with pytest.raises(UsageError) as caught:
        RoundSettings(**values)  # type: ignore[arg-type]
    assert caught.value.where == option
