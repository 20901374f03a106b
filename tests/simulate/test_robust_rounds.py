"""Simulated rounds with robust rules, clipping and server-side optimisers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ravan_edge.artifact import open_artifact, read_heads
from ravan_edge.errors import UsageError
from ravan_edge.merge import (
    MergeName,
    MergeSettings,
    RoundMode,
    RoundRule,
    ServerOptimizerName,
)
from ravan_edge.simulate import SimulationRequest, simulate, worker
from ravan_edge.simulate.report import write_report
from ravan_edge.training import LocalResult, local_round
from tests.simulate.conftest import RequestFor
from tests.simulate.faults import Killed
from tests.simulate.same_run import comparable, metrics

KRUM = MergeSettings(MergeName.KRUM, byzantine=1)
EVERY_MERGE = [
    KRUM,
    MergeSettings(MergeName.MEDIAN, max_norm=0.05),
    MergeSettings(MergeName.TRIMMED_MEAN, byzantine=1),
    MergeSettings(MergeName.MULTI_KRUM, byzantine=1, server_optimizer=ServerOptimizerName.YOGI),
    MergeSettings(MergeName.GEOMETRIC_MEDIAN, server_optimizer=ServerOptimizerName.ADAM),
    MergeSettings(max_norm=0.05, server_optimizer=ServerOptimizerName.MOMENTUM),
]
ROUNDS: dict[str, Any] = {"per_round": 6, "rounds": 3, "head_budgets": "1:0.5,4:0.5"}


def scratch_is_gone(folder: Path) -> bool:
    return not (folder / ".differences").exists()


@pytest.mark.parametrize("mode", list(RoundMode))
def test_the_number_of_workers_changes_no_bit(request_for: RequestFor, mode: RoundMode) -> None:
    rule = RoundRule(mode, buffer=5) if mode is RoundMode.ASYNC else RoundRule()
    settings = ROUNDS | {"merging": EVERY_MERGE[3], "rule": rule}
    found = []
    for workers in (1, 3):
        request = request_for(f"workers{workers}", **settings)
        simulate(request, workers=workers)
        found.append(comparable(request.out))
        assert scratch_is_gone(request.out)
    assert found[0] == found[1]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("merging", EVERY_MERGE, ids=lambda s: f"{s.merge}-{s.server_optimizer}")
def test_a_killed_run_ends_with_the_same_bytes(
    request_for: RequestFor, merging: MergeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = request_for("whole", merging=merging, **ROUNDS)
    simulate(whole, workers=1)
    killed = request_for("killed", merging=merging, **ROUNDS)
    calls = 0

    def dying_round(*words: Any, **more: Any) -> LocalResult:
        nonlocal calls
        calls += 1
        if calls == 15:  # in the last round
            raise Killed
        return local_round(*words, **more)

    with monkeypatch.context() as patch:
        patch.setattr(worker, "local_round", dying_round)
        with pytest.raises(Killed):
            simulate(killed, workers=1)
    assert not merging.is_robust or list((killed.out / ".differences").iterdir())
    simulate(killed, workers=1)
    assert comparable(killed.out) == comparable(whole.out)
    assert scratch_is_gone(killed.out)


@pytest.mark.usefixtures("in_process")
def test_heads_that_too_few_trained_are_kept_and_counted(request_for: RequestFor) -> None:
    request = request_for(merging=KRUM, per_round=5, rounds=1, head_budgets="1:0.99,4:0.01")
    summary = simulate(request, workers=1)
    (line,) = metrics(request.out, "round")
    assert line["heads_kept"] == summary["devices"]["heads_kept"] > 0
    artifact = open_artifact(request.artifact)
    before = artifact.initial_heads()
    after = read_heads(request.out / "heads" / "last.safetensors", artifact)
    same = sum(
        before[layer.name + ".H"][head].tobytes() == after[layer.name + ".H"][head].tobytes()
        for layer in artifact.manifest.layers
        for head in range(layer.heads)
    )
    assert same == line["heads_kept"]
    page = write_report(request.out).read_text("utf-8")
    assert f"In 1 round some heads kept their value ({same} in all), since" in page


@pytest.mark.usefixtures("in_process")
def test_the_plain_mean_says_nothing_of_kept_heads(request_for: RequestFor) -> None:
    request = request_for(rounds=1)
    assert "heads_kept" not in simulate(request, workers=1)["devices"]
    assert "heads_kept" not in metrics(request.out, "round")[0]


def attacked(monkeypatch: pytest.MonkeyPatch, attackers: set[int]) -> None:
    """These devices send their difference turned round and enlarged."""

    def round_of(*words: Any, **more: Any) -> LocalResult:
        result = local_round(*words, **more)
        if more["device"] in attackers:
            result.difference[...] = np.clip(result.difference * -100, -60, 60)
        return result

    monkeypatch.setattr(worker, "local_round", round_of)


@pytest.mark.usefixtures("in_process")
def test_attackers_break_the_mean_and_not_the_robust_rules(
    request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"devices": 9, "per_round": 9, "rounds": 4, "seed": 3}
    honest = simulate(request_for("honest", **settings), workers=1)["final"]
    attacked(monkeypatch, {2, 5})
    broken = simulate(request_for("mean", **settings), workers=1)["final"]
    assert broken["loss"] > 1.5 * honest["loss"]
    for merging in (
        MergeSettings(MergeName.MEDIAN, byzantine=2),
        MergeSettings(MergeName.TRIMMED_MEAN, byzantine=2),
        MergeSettings(MergeName.KRUM, byzantine=2),
        MergeSettings(MergeName.MULTI_KRUM, byzantine=2),
        MergeSettings(MergeName.GEOMETRIC_MEDIAN, byzantine=2),
    ):
        name = str(merging.merge)
        held = simulate(request_for(name, merging=merging, **settings), workers=1)["final"]
        assert held["loss"] < 1.15 * honest["loss"], name


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"merging": KRUM, "per_round": 4}, "--byzantine"),
        (
            {"merging": KRUM, "rule": RoundRule(RoundMode.ASYNC, buffer=4), "per_round": 9},
            "--byzantine",
        ),
    ],
)
def test_too_many_attackers_for_a_round_are_refused(
    request_for: RequestFor, settings: dict[str, Any], option: str
) -> None:
    with pytest.raises(UsageError) as found:
        request_for(**settings)
    assert found.value.where == option
    assert found.value.exit_code == 2


def test_a_server_merges_as_it_was_told(request_for: RequestFor) -> None:
    request = request_for(merging=KRUM, per_round=5)
    there = SimulationRequest(
        request.artifact, request.train, request.test, request.out, request.settings, "http://x"
    )
    with pytest.raises(UsageError, match="how it merges is what `ravan serve` was told"):
        simulate(there, workers=1)
