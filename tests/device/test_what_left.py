"""What left a device can be looked at: the promise of `ravan device show-last-update`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ravan_edge.device import DeviceSettings, DeviceState
from ravan_edge.errors import NetworkError
from ravan_edge.protocol import Receipt
from tests.device.device_kit import Killed, events, make_device
from tests.server.server_kit import Clock


def shown(folder: Path) -> tuple[str, bool]:
    """Its task and whether it was acknowledged, after a look at the file."""
    state = DeviceState(folder)
    sent = state.last_update()
    assert sent is not None
    content = state.last_update_path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == sent["sha256"]
    return sent["task"], sent["acknowledged"]


def test_what_left_and_was_never_answered_is_shown(url: str, rows: Path, tmp_path: Path) -> None:
    device = make_device(tmp_path / "device", url, rows)
    seen: list[str] = []

    def swallowed(task: str, content: bytes) -> Receipt:
        seen.append(task)
        raise Killed

    device.connection.upload = swallowed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        device.run()
    assert shown(tmp_path / "device") == (seen[0], False)


def test_killed_in_the_moment_of_the_answer_it_does_not_forget_what_was_sent(
    url: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, folder = Clock(), tmp_path / "device"
    device = make_device(folder, url, rows)
    device.clock = clock
    acknowledged, write = DeviceState.acknowledged, "ravan_edge.device.state.write_atomic"

    def killed(state: DeviceState, task: object, sha256: str) -> None:
        def kill(*_: object) -> None:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(write, kill)
            acknowledged(state, task, sha256)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(DeviceState, "acknowledged", killed)
        with pytest.raises(Killed):
            device.run()
    clock.now += 100_000
    again = make_device(folder, url, rows)
    again.clock = clock
    assert again.run().sent == 1
    assert events(folder) == ["task", "sent"]
    assert shown(folder)[1]


def test_a_receipt_for_something_else_is_none(
    url: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = make_device(tmp_path / "device", url, rows, DeviceSettings(patience_seconds=0))
    upload = device.connection.upload

    def other(task: str, content: bytes) -> Receipt:
        return upload(task, content).model_copy(update={"sha256": "0" * 64})

    monkeypatch.setattr(device.connection, "upload", other)
    with pytest.raises(NetworkError, match="something else"):
        device.run()
    assert not shown(tmp_path / "device")[1]
