"""The rule of rounds on the server: its options, another one after a restart, weights by examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravan_edge.artifact import Artifact
from ravan_edge.errors import UsageError
from ravan_edge.merge import RoundMode, RoundRule, Weighting
from ravan_edge.protocol import (
    Reason,
)
from ravan_edge.training import LocalSettings
from ravan_server.settings import RoundSettings
from tests.server.server_kit import (
    Clock,
    Counted,
    merged_heads,
    opened_server,
    wait_for,
)
from tests.server.steps import LOCAL, do, heads, refusal, rounds, task
from tests.tiny_artifact import make_tiny_artifact


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("buffered") / "artifact")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("before", [RoundMode.SYNC, RoundMode.ASYNC])
def test_another_mode_from_the_next_version_on(
    artifact: Artifact, tmp_path: Path, clock: Clock, before: RoundMode
) -> None:
    """Tasks of a synchronous round, or for one, end with it."""
    synchronous = RoundSettings(local=LOCAL, goal=2, over_selection=1.5)
    first, second = (synchronous, rounds()) if before is RoundMode.SYNC else (rounds(), synchronous)
    with opened_server(artifact, tmp_path, clock, first):
        pass
    with opened_server(artifact, tmp_path, clock, second) as server:
        offers = [task(server, number) for number in range(3)]
        assert server.status().mode == before
        do(server, offers[0])
        do(server, offers[1])
        wait_for(server, 1)
        status = server.status()
        assert (status.training, status.mode != before) == (0, True)
        assert refusal(server, offers[2]).reason is Reason.ROUND_OVER


@pytest.mark.parametrize("mode", list(RoundMode))
def test_examples_weigh_as_recorded(
    artifact: Artifact, tmp_path: Path, clock: Clock, mode: RoundMode
) -> None:
    """Each update says 8 rows, and there can be 5: nobody counts more than is possible."""
    local = LocalSettings(local_steps=1, batch_size=5)
    rule = RoundRule(mode, weighting=Weighting.EXAMPLES)
    settings = RoundSettings(local=local, rule=rule, goal=2, over_selection=1)
    with opened_server(artifact, tmp_path, clock, settings) as server:
        offers = [task(server, number) for number in range(2)]
        for offer in offers:
            do(server, offer)
        wait_for(server, 1)
        assert heads(server, 1).read_bytes() == merged_heads(
            artifact, heads(server, 0), [Counted(0, 0, 5), Counted(1, 0, 5)], 0, most=10
        )


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"rule": RoundRule(RoundMode.ASYNC, buffer=2), "minimum": 3}, "--minimum"),
        (
            {
                "rule": RoundRule(weighting=Weighting.EXAMPLES),
                "goal": 1_000_000,
                "local": LocalSettings(local_steps=1000),
            },
            "--weighting",
        ),
    ],
)
def test_bad_settings_are_refused_by_name(values: dict[str, object], option: str) -> None:
    with pytest.raises(UsageError) as caught:
        RoundSettings(**values)  # type: ignore[arg-type]
    assert caught.value.where == option


def test_settings_survive_the_store() -> None:
    settings = rounds(max_staleness=4, weighting=Weighting.EXAMPLES, minimum=1)
    assert RoundSettings.from_json(settings.to_json()) == settings
