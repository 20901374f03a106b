"""Simulations on a real server, which runs in the test's own process and is reached over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ravan_edge.artifact import open_artifact
from ravan_edge.device import ServerConnection
from ravan_edge.simulate import RoundDone, SimulationRequest, engine, simulate
from ravan_edge.simulate.run_folder import CHECKPOINT_NAME
from ravan_edge.simulate.state import RunState, state_from_bytes
from ravan_server.access.login import Login
from ravan_server.access.replay import ReplayGuard
from ravan_server.coordinator import Coordinator
from ravan_server.settings import RoundSettings, ServerSettings
from tests.server.login_kit import OPERATOR
from tests.server.server_kit import Clock, listening, opened_server
from tests.simulate.faults import Killed
from tests.simulate.same_run import comparable

__all__ = [
    "Heads",
    "KillAtRequest",
    "RealClock",
    "killed",
    "login_of",
    "run",
    "same",
    "server_for",
]

Heads = dict[int, bytes]


class RealClock(Clock):
    """For servers whose deadlines pass by themselves."""

    def __call__(self) -> float:
        return time.time()


def login_of(coordinator: Coordinator) -> Login:
    """What ``serve --enrolment`` makes."""
    coordinator.members.keyring.load()
    return Login(coordinator.members.keyring, OPERATOR, ReplayGuard(coordinator.now()), 10_000)


@contextmanager
def server_for(
    request: SimulationRequest,
    state: Path,
    clock: Clock | None = None,
    attempts: dict[str, Any] | None = None,
    *,
    login: bool = False,
    **settings: Any,
) -> Iterator[tuple[Coordinator, SimulationRequest]]:
    """A server with the settings of a request, but for the given ones; and the request on it."""
    asked = request.settings
    attempt = {
        "local": asked.local,
        "upload": asked.upload,
        "goal": asked.per_round,
        "over_selection": 1.0,
    } | (attempts or {})
    with (
        opened_server(
            open_artifact(request.artifact),
            state,
            clock or Clock(),
            RoundSettings(**attempt),
            ServerSettings(**({"rounds": asked.rounds, "seed": asked.seed} | settings)),
        ) as coordinator,
        listening(coordinator, login_of(coordinator) if login else None) as url,
    ):
        yield coordinator, replace(request, server=url)


def run(request: SimulationRequest, heads: Heads | None = None, workers: int = 1) -> Heads:
    """The run to its end; the bytes of the heads after every round."""
    found: Heads = {} if heads is None else heads

    def note(event: object) -> None:
        if isinstance(event, RoundDone):
            content = (request.out / CHECKPOINT_NAME).read_bytes()
            state, _, _ = state_from_bytes(content, "here")
            assert state.round == event.round
            found[event.round] = state.heads.tobytes()

    simulate(request, workers=workers, on_event=note)
    return found


def same(there: Path, here: Path) -> None:
    """All that two runs have in common, but for the name of the server."""
    found, expected = comparable(there), comparable(here)
    assert found["summary"].pop("server").startswith("http://127.0.0.1:")
    assert found["metrics.jsonl"].decode() == expected["metrics.jsonl"].decode()
    assert found == expected


class KillAtRequest:
    """Ends this process, as far as it can, at one of its requests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left = 0
        self._when = ""
        for name in ("_request", "download"):
            monkeypatch.setattr(ServerConnection, name, self._counted(name))

    def set(self, number: int, when: str) -> None:
        """The ``number``-th request from now on is the last, ``before`` or ``after`` it; 0: none is."""
        self._left, self._when = number, when

    def _counted(self, name: str) -> Callable[..., Any]:
        method = getattr(ServerConnection, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            last = self._left == 0
            if last and self._when == "before":
                raise Killed
            answer = method(*arguments, **named)
            if last:
                raise Killed
            return answer

        return call


def killed(monkeypatch: pytest.MonkeyPatch, request: SimulationRequest, round: int) -> None:
    """The run until it is about to commit this round; then it is killed."""
    commit = engine.RunFolder.commit

    def kills(folder: engine.RunFolder, state: RunState, lines: Any) -> None:
        if state.round == round:
            raise Killed
        commit(folder, state, lines)

    with monkeypatch.context() as patch:
        patch.setattr(engine.RunFolder, "commit", kills)
        with pytest.raises(Killed):
            simulate(request, workers=1)
