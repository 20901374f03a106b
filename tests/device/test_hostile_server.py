"""A server that is wrong, gone or hostile: what a device does then."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravan_edge.device import DeviceState
from ravan_edge.protocol import TaskOffer
from ravan_edge.training import RoundState
from ravan_server.coordinator import Coordinator
from tests.device.device_kit import Killed, events, make_device
from tests.server.server_kit import Clock


def test_a_task_whose_heads_are_gone_is_given_back_and_not_tried_for_ever(
    server: Coordinator, url: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = make_device(tmp_path / "device", url, rows)

    def killed(digest: str, path: Path, most_bytes: int) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(device.connection, "download", killed)
        with pytest.raises(Killed):
            device.run()
    blob = server.blob

    with monkeypatch.context() as patch:
        heads = server.status().heads
        patch.setattr(server, "blob", lambda digest: blob("0" * 64 if digest == heads else digest))
        assert make_device(tmp_path / "device", url, rows).run().given_back == 1
    assert DeviceState(tmp_path / "device").current() is None
    assert server.status().training == 0


def test_after_a_long_sleep_nothing_is_trained_or_downloaded(
    url: str, rows: Path, tmp_path: Path
) -> None:
    clock, steps = Clock(), []

    def kill(offer: TaskOffer, state: RoundState) -> None:
        raise Killed

    device = make_device(tmp_path / "device", url, rows)
    device.clock, device.on_step = clock, kill
    with pytest.raises(Killed):
        device.run()
    clock.now += 100_000
    again = make_device(tmp_path / "device", url, rows)
    slept: list[float] = []
    again.clock, again.sleep = clock, slept.append
    again.on_step = lambda offer, state: steps.append(state.steps)
    assert again.run().refused == 1
    assert steps == []
    assert events(tmp_path / "device") == ["task", "late"]
    assert slept, "the server may not know yet that the round is over"
