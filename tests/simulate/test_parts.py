"""The parts of a simulation that are pure functions: budgets, cohorts, the clock, settings."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravan_edge.artifact import open_artifact
from ravan_edge.errors import UsageError
from ravan_edge.generator import Purpose, Stream
from ravan_edge.simulate import RoundDone, SimulationSettings
from ravan_edge.simulate.budgets import parse_head_budgets
from ravan_edge.simulate.clock import Clock, flops_per_token
from ravan_edge.simulate.cohort import device_uniforms, drop_outs, sample_cohort
from ravan_edge.simulate.progress import RoundDisplay, round_line
from ravan_edge.simulate.state import SetScores
from ravan_edge.simulate.workers import chunk_sizes
from ravan_edge.training import LocalSettings
from tests.simulate.conftest import Tiny


@given(tasks=st.integers(0, 5000), workers=st.integers(1, 64))
def test_chunks_are_all_tasks_and_fall(tasks: int, workers: int) -> None:
    sizes = list(chunk_sizes(tasks, workers))
    assert sum(sizes) == tasks
    assert sizes == sorted(sizes, reverse=True)
    assert all(1 <= size <= 64 for size in sizes)


@given(devices=st.integers(1, 500), seed=st.integers(0, 2**64 - 1))
def test_budgets_are_dealt_in_their_shares(devices: int, seed: int) -> None:
    dealt = parse_head_budgets("1:0.25,3:0.5,4:0.25").deal(devices, seed)
    counts = np.bincount(dealt, minlength=5)
    assert counts.sum() == devices
    for heads, share in ((1, 0.25), (3, 0.5), (4, 0.25)):
        assert abs(counts[heads] - share * devices) < 1


def test_the_order_of_budgets_does_not_matter() -> None:
    first, second = parse_head_budgets("4:0.25,1:0.75"), parse_head_budgets("1:0.75, 4:.25")
    assert first == second


@pytest.mark.parametrize(
    "text", ["", "1", "1:", "1:0.5", "1:0.5,2:0.6", "0:1", "1:0.5,1:0.5", "a:1", "1:1;2:0", "-1:1"]
)
def test_bad_budgets_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--head-budgets"):
        parse_head_budgets(text)


def test_cohorts_are_drawn_among_those_with_data() -> None:
    eligible = np.array([1, 4, 5, 9, 30])
    cohorts = [sample_cohort(eligible, 3, seed=3, round=round_) for round_ in range(40)]
    assert all(set(cohort) <= set(eligible) and len(set(cohort)) == 3 for cohort in cohorts)
    assert set(np.concatenate(cohorts)) == set(eligible)
    again = sample_cohort(eligible, 3, seed=3, round=7)
    assert again.tolist() == cohorts[7].tolist()


@given(seed=st.integers(0, 2**64 - 1), round_=st.integers(0, 2**32 - 1), device=st.integers(0, 99))
def test_many_devices_at_once_draw_what_each_draws_alone(
    seed: int, round_: int, device: int
) -> None:
    many = device_uniforms(seed, Purpose.DROP_OUT, round_, np.arange(100))
    one = Stream(seed, Purpose.DROP_OUT, round_, device).uniform(2)
    assert many[device].tolist() == one.tolist()


def test_drop_outs_have_their_probability_and_nobody_else_matters() -> None:
    everybody = np.arange(20_000)
    lost = drop_outs(everybody, 0.3, seed=1, round=5)
    assert abs(lost.mean() - 0.3) < 0.02
    assert drop_outs(everybody[50:60], 0.3, seed=1, round=5).tolist() == lost[50:60].tolist()
    assert not drop_outs(everybody, 0.0, seed=1, round=5).any()


def clock(devices: int = 1000, **changes: float) -> Clock:
    values: dict[str, Any] = {
        "seed": 1,
        "gflops": 10.0,
        "speed_spread": 2.0,
        "download_mbps": 8.0,
        "upload_mbps": 4.0,
        "bandwidth_spread": 3.0,
    }
    return Clock.draw(devices, {4: 1e6}, **(values | changes))


def test_rates_lie_within_their_spread_around_the_nominal_one() -> None:
    rates = clock()
    for found, nominal, spread in (
        (rates.flops, 1e10, 2.0),
        (rates.download, 1e6, 3.0),
        (rates.upload, 5e5, 3.0),
    ):
        assert found.min() >= nominal / spread
        assert found.max() <= nominal * spread
        assert abs(np.log(found / nominal).mean()) < 0.05
    equal = clock(speed_spread=1.0, bandwidth_spread=1.0)
    assert set(equal.flops) == {1e10}


def test_the_time_of_a_device_is_bytes_and_flops_over_its_rates() -> None:
    rates = clock(1, speed_spread=1.0, bandwidth_spread=1.0)
    time = rates.device_time(
        0, heads=4, tokens=2000, download_bytes=3_000_000, upload_bytes=1_000_000
    )
    assert (time.download, time.compute, time.upload) == (3.0, 0.2, 2.0)
    assert time.total == 5.2


def test_flops_of_a_token(tiny: Tiny) -> None:
    manifest = open_artifact(tiny.artifact()).manifest
    (layer,) = manifest.layers
    adapter = layer.rank * (layer.outputs + layer.inputs + layer.rank)
    assert flops_per_token(manifest, 3) == 4 * manifest.model.parameters + 6 * 3 * adapter
    only = open_artifact(tiny.artifact("head-only")).manifest
    assert flops_per_token(only, 0) == 4 * only.model.parameters


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"devices": 0}, "--devices"),
        ({"per_round": 0}, "--per-round"),
        ({"rounds": 0}, "--rounds"),
        ({"validation": 1.0}, "--validation"),
        ({"validation": -0.1}, "--validation"),
        ({"partition": "dirichlet"}, "--partition"),
        ({"partition": "dirichlet:-1"}, "--partition"),
        ({"drop_out": 1.0}, "--drop-out"),
        ({"deadline_seconds": 0.0}, "--deadline-seconds"),
        ({"deadline_seconds": float("nan")}, "--deadline-seconds"),
        ({"device_gflops": 0.0}, "--device-gflops"),
        ({"bandwidth_spread": 0.5}, "--bandwidth-spread"),
        ({"threads": 0}, "--threads"),
        ({"seed": -1}, "--seed"),
        ({"seed": 1 << 64}, "--seed"),
        ({"evaluation_batch": 0}, "--evaluation-batch"),
    ],
)
def test_settings_out_of_range_name_their_option(values: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError, match=option):
        SimulationSettings(**values)


def test_settings_are_json_and_equal_meanings_are_equal() -> None:
    first = SimulationSettings(partition="dirichlet:0.30", head_budgets="4:.5,1:0.50")
    second = SimulationSettings(partition="dirichlet:0.3", head_budgets="1:0.5,4:0.5")
    assert first == second
    assert json.loads(json.dumps(first.as_dict())) == first.as_dict()
    assert SimulationSettings(local=LocalSettings(lr=0.1)).as_dict()["lr"] == 0.1


class _Terminal:
    """A stream that says it is a terminal, or not."""

    def __init__(self, *, terminal: bool) -> None:
        self.text = ""
        self._terminal = terminal

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        return self._terminal


DONE = RoundDone(2, 9, 2, 3, 0.25, {"test": SetScores(0.5, 0.75, 4, ())}, 12.0, 0.5)


def test_a_round_is_one_line_in_a_pipe() -> None:
    stream = _Terminal(terminal=False)
    with RoundDisplay(stream) as display:  # type: ignore[arg-type]
        display(DONE)
    assert stream.text == round_line(DONE) + "\n"
    assert "test 75.0 %" in stream.text
    assert "merged 2 of 3" in stream.text
