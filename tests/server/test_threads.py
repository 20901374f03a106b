"""Threads of the server outlive what nobody expected: a server that looks alive and does nothing is worst."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ravan_edge.artifact import Artifact
from ravan_edge.protocol import TaskOffer
from ravan_edge.training import LocalSettings
from ravan_server import evaluator
from ravan_server.coordinator import Coordinator
from ravan_server.meters import Meters
from ravan_server.settings import RoundSettings
from ravan_server.store import VersionRow
from ravan_server.view import View
from tests.server.server_kit import (
    Clock,
    ask,
    device_update,
    opened_server,
    send,
    wait_for,
    wait_until,
)
from tests.tiny_artifact import make_tiny_artifact

ROUNDS = RoundSettings(local=LocalSettings(local_steps=1), goal=1, deadline_seconds=60)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("server") / "artifact")


def one_round(server: Coordinator, device: str) -> None:
    offer = ask(server, device)
    assert isinstance(offer, TaskOffer)
    send(server, device_update(server.artifact, offer), offer.task)


def test_a_bug_in_a_merge_does_not_end_the_rounds(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened_server(artifact, tmp_path, Clock(), ROUNDS) as server:
        merge, tries = server._merger.merge, []

        def failing(*arguments):  # type: ignore[no-untyped-def]  # noqa: ANN002, ANN202
            tries.append(arguments)
            if len(tries) == 1:
                raise ValueError("a bug")
            return merge(*arguments)

        monkeypatch.setattr(server._merger, "merge", failing)
        one_round(server, "device-1")
        wait_for(server, 1, seconds=10)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script plays the evaluation")
def test_an_evaluation_that_says_nonsense_does_not_end_evaluations(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    answer = '{"accuracy": 0.5, "loss": 1.0, "count": 2}'
    first, again = (
        tmp_path / "first",
        f"[ -e {tmp_path}/first ] && echo '{answer}' || echo nonsense",
    )
    script.write_text(f"#!/bin/sh\n{again}\ntouch {first}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    scored: list[int] = []
    path = tmp_path / "heads"
    worker = evaluator.Evaluator(
        artifact, [], lambda _: path, lambda version, _: scored.append(version), Meters()
    )
    worker.start()
    worker.add(VersionRow(1, "0" * 64, 1, None, 0, 0.0))
    wait_until(first.exists, 10)
    worker.add(VersionRow(2, "1" * 64, 1, None, 0, 0.0))
    wait_until(lambda: scored == [2], 10)
    worker.stop()


def test_the_writer_answers_though_a_bug_hides_the_state(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened_server(artifact, tmp_path, Clock(), ROUNDS) as server:

        def broken(*_: object) -> None:
            raise ValueError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(View, "follow", broken)
            patch.setattr(View, "load", broken)
            with pytest.raises(ValueError, match="a bug"):
                ask(server, "device-1")
        one_round(server, "device-1")
        wait_for(server, 1, seconds=10)
