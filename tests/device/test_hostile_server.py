"""A server that is wrong, gone or hostile: what a device does then."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravan_edge.artifact import HEADS_NAME, Artifact, heads_bytes
from ravan_edge.device import Device, DeviceSettings, DeviceState
from ravan_edge.errors import ArtifactError, NetworkError
from ravan_edge.methods import method_for
from ravan_edge.protocol import (
    CheckIn,
    ComeBack,
    Reason,
    Refusal,
    TaskOffer,
    WaitReason,
    decode_update,
)
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


def changed(device: Device, monkeypatch: pytest.MonkeyPatch, **fields: object) -> None:
    """The server offers something else than it would."""
    check_in = device.connection.check_in

    def hostile(message: CheckIn) -> TaskOffer | ComeBack:
        answer = check_in(message)
        return answer.model_copy(update=fields) if isinstance(answer, TaskOffer) else answer

    monkeypatch.setattr(device.connection, "check_in", hostile)


def test_heads_larger_than_the_artifacts_are_not_downloaded(
    server: Coordinator, url: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = make_device(tmp_path / "device", url, rows)
    most = heads_bytes(server.artifact.manifest)
    assert most >= server.artifact.manifest.files[HEADS_NAME].size
    changed(device, monkeypatch, heads_bytes=most + 1)
    with pytest.raises(ArtifactError, match="at most"):
        device.run()
    assert events(tmp_path / "device") == ["task", "given back"]


def test_a_plan_that_was_not_asked_for_is_not_run(
    url: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = make_device(tmp_path / "device", url, rows, DeviceSettings(patience_seconds=0))
    changed(device, monkeypatch, plan="executorch")
    with pytest.raises(NetworkError, match="plan 'executorch'"):
        device.run()
    assert events(tmp_path / "device") == []


def test_a_lower_limit_of_heads_holds_for_a_task_that_is_begun(
    url: str, artifact: Artifact, rows: Path, tmp_path: Path
) -> None:
    def kill(offer: TaskOffer, state: RoundState) -> None:
        if state.steps == 2:
            raise Killed

    device = make_device(tmp_path / "device", url, rows)
    device.on_step = kill
    with pytest.raises(Killed):
        device.run()
    settings = DeviceSettings(tasks=1, train_heads=1)
    assert make_device(tmp_path / "device", url, rows, settings).run().sent == 1
    content = DeviceState(tmp_path / "device").last_update_path.read_bytes()
    update = decode_update(
        content, artifact.manifest, method_for(artifact.manifest), artifact.digest
    )
    assert {len(heads) for heads in update.trained.values()} == {1}
    assert update.info.steps == 6


@pytest.mark.parametrize(("said", "waited"), [(0.0, 0.5), (3.0, 3.0), (1e9, 172_800.0)])
def test_a_wait_is_neither_none_nor_for_years(
    url: str, rows: Path, tmp_path: Path, said: float, waited: float
) -> None:
    device = make_device(tmp_path / "device", url, rows)
    slept: list[float] = []
    device.sleep = slept.append
    come_back = ComeBack(reason=WaitReason.BUSY, earliest_seconds=said, latest_seconds=said)
    answers = [
        come_back,
        Refusal(Reason.BUSY, "later", retry_after_seconds=1e9),
        ComeBack(reason=WaitReason.FINISHED, earliest_seconds=0.0, latest_seconds=0.0),
    ]

    def check_in(_: CheckIn) -> ComeBack:
        answer = answers.pop(0)
        if isinstance(answer, Refusal):
            raise answer
        return answer

    device.connection.check_in = check_in  # type: ignore[method-assign]
    assert device.run().finished
    assert slept == [waited, 172_800.0]
