"""While a large update is checked, others are answered: the event loop does not do it."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ravan_edge.artifact import Artifact
from ravan_edge.protocol import ComeBack, Reason, TaskOffer, UpdateReader
from ravan_server.app import create_app
from ravan_server.settings import RoundSettings
from tests.server.asgi import Answer, Client
from tests.server.devices import changed, message, path_of, tensor_file, update_of
from tests.server.server_kit import Clock, ask, opened_server
from tests.tiny_artifact import LAYER, TinySizes, make_tiny_artifact

SECONDS = 20.0  # a check that nobody lets go on ends by itself, and the test fails


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    sizes = TinySizes(width=32, heads=8, rank=200)  # an update has 1.3 MB
    return make_tiny_artifact(tmp_path_factory.mktemp("large") / "artifact", sizes=sizes)


class Held:
    """A method of the reader that waits until it may go on, and says in which thread it ran first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.go_on, self.began = threading.Event(), threading.Event()
        self.thread = ""
        right = getattr(UpdateReader, name)

        def held(reader: UpdateReader, *arguments: Any, **named: Any) -> Any:
            self.thread = self.thread or threading.current_thread().name  # a merge reads it again
            self.began.set()
            assert self.go_on.wait(SECONDS), "nobody was answered meanwhile"
            return right(reader, *arguments, **named)

        monkeypatch.setattr(UpdateReader, name, held)


async def check_in_meanwhile(client: Client, held: Held, path: str, body: bytes) -> Answer:
    """Send an update; while its check waits, a device checks in."""
    sending = asyncio.ensure_future(client.send_put(path, body))
    assert await asyncio.to_thread(held.began.wait, SECONDS)
    answer = await client.send("POST", "/v1/check-in", json_body(message(7)), headers=JSON)
    assert ComeBack.model_validate_json(answer.body)
    assert not sending.done()
    held.go_on.set()
    return await sending


JSON = {"content-type": "application/json"}


def json_body(document: object) -> bytes:
    return json.dumps(document).encode()


@pytest.mark.parametrize("value", [0.5, np.nan, -64.0])
def test_numbers_of_a_large_update_are_checked_beside_the_event_loop(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    rounds = RoundSettings(goal=1, over_selection=1)
    with opened_server(artifact, tmp_path / "state", Clock(), rounds) as server:
        offer = ask(server, "device-000000")
        assert isinstance(offer, TaskOffer)
        numbers = np.zeros((8, 200, 200), np.float32)
        numbers.flat[-1] = value
        body = changed(update_of(artifact, offer), {f"{LAYER}.D": numbers})
        held = Held(monkeypatch, "view")
        with Client(create_app(server)) as client:
            answer = client.run(check_in_meanwhile(client, held, path_of(offer), body))
        assert held.thread.startswith("checks")
        if value == 0.5:
            assert answer.status == 200
        else:
            assert answer.problem.reason is Reason.BAD_NUMBERS


def test_a_large_header_is_checked_beside_the_event_loop(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = RoundSettings(goal=1, over_selection=1)
    with opened_server(artifact, tmp_path / "state", Clock(), rounds) as server:
        offer = ask(server, "device-000000")
        assert isinstance(offer, TaskOffer)
        held = Held(monkeypatch, "check_header")
        body = tensor_file(b"{" + b",".join(b'"%d":0' % each for each in range(50_000)) + b"}")
        with Client(create_app(server)) as client:
            answer = client.run(check_in_meanwhile(client, held, path_of(offer), body))
        assert held.thread.startswith("checks")
        assert answer.problem.reason is Reason.BAD_UPDATE


def test_small_updates_wake_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = make_tiny_artifact(tmp_path / "artifact")
    with opened_server(small, tmp_path / "state", Clock()) as server:
        offer = ask(server, "device-000000")
        assert isinstance(offer, TaskOffer)
        held = Held(monkeypatch, "view")
        held.go_on.set()
        with Client(create_app(server)) as client:
            assert client.put(path_of(offer), update_of(small, offer)).status == 200
        assert held.thread == threading.main_thread().name
