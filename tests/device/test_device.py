"""A device and a server, over real HTTP on this machine."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ravan_edge.artifact import Artifact
from ravan_edge.device import DeviceSettings, DeviceState, ServerConnection
from ravan_edge.errors import DataError, NetworkError, NumericsError, WorkerError
from ravan_edge.methods import method_for
from ravan_edge.plans import open_step
from ravan_edge.plans.step import RuntimeSettings
from ravan_edge.protocol import Reason, Refusal, TaskOffer, decode_update
from ravan_edge.training import RoundState, local_round
from ravan_server.coordinator import Coordinator
from ravan_server.settings import ServerSettings
from tests.device.device_kit import (
    LOCAL,
    ROUNDS,
    Killed,
    events,
    load_rows,
    make_device,
)
from tests.server.server_kit import Clock, ask, device_update, listening, opened_server, send


def test_what_it_sends_is_the_local_round_of_its_rows(
    server: Coordinator, url: str, artifact: Artifact, rows: Path, tmp_path: Path
) -> None:
    report = make_device(tmp_path / "device", url, rows).run()
    assert (report.sent, report.refused, report.given_back) == (1, 0, 0)
    state = DeviceState(tmp_path / "device")
    content = state.last_update_path.read_bytes()
    update = decode_update(
        content, artifact.manifest, method_for(artifact.manifest), artifact.digest
    )
    dataset, method = load_rows(rows)(artifact), method_for(artifact.manifest)
    with open_step(artifact, "whole", RuntimeSettings()) as step:
        expected = local_round(
            step,
            method,
            method.layout.pack(artifact.initial_heads()),
            dataset,
            np.arange(len(dataset), dtype=np.int64),
            LOCAL,
            layers={layer.name: layer.heads for layer in artifact.manifest.layers},
            seed=5,
            round=0,
            device=0,
        )
    assert np.array_equal(update.difference, expected.difference)
    assert (update.info.examples, update.info.steps) == (expected.examples, 6)
    sent = state.last_update()
    assert sent is not None
    assert sent["sha256"] == hashlib.sha256(content).hexdigest()
    assert events(tmp_path / "device") == ["task", "sent"]
    assert not (tmp_path / "device" / "round").exists()


def test_it_ends_when_the_server_has_finished(url: str, rows: Path, tmp_path: Path) -> None:
    report = make_device(tmp_path / "device", url, rows, DeviceSettings()).run()
    assert (report.sent, report.finished) == (2, True)


def test_the_base_comes_once(url: str, rows: Path, tmp_path: Path) -> None:
    fetched: list[str] = []
    for _ in range(2):
        device = make_device(tmp_path / "device", url, rows)
        download = device.connection.download

        def counted(digest: str, path: Path, most: int, download=download) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
            fetched.append(digest)
            download(digest, path, most)

        device.connection.download = counted  # type: ignore[method-assign]
        device.run()
    assert len(fetched) == len(set(fetched))
    assert fetched[-1] != fetched[-2], "the second round fetched its heads, and nothing else"


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_killed_in_training_it_goes_on_with_the_same_bits(
    server: Coordinator, url: str, rows: Path, tmp_path: Path, steps: int
) -> None:
    def kill(offer: TaskOffer, state: RoundState) -> None:
        if state.steps == steps:
            raise Killed

    device = make_device(tmp_path / "device", url, rows)
    device.on_step = kill
    with pytest.raises(Killed):
        device.run()
    seen: list[int] = []
    again = make_device(tmp_path / "device", url, rows)
    again.on_step = lambda offer, state: seen.append(state.steps)
    assert again.run().sent == 1
    assert seen[0] == steps + 1
    interrupted = DeviceState(tmp_path / "device").last_update_path.read_bytes()
    assert events(tmp_path / "device") == ["task", "sent"]
    # Another device with the same number, rows and version, never killed.
    with (
        opened_server(
            server.artifact, tmp_path / "other", Clock(), ROUNDS, ServerSettings(seed=5)
        ) as other,
        listening(other) as address,
    ):
        assert make_device(tmp_path / "twin", address, rows).run().sent == 1
    whole = DeviceState(tmp_path / "twin").last_update_path.read_bytes()
    tail = -64  # the task's id in the header differs, the numbers do not
    assert interrupted[tail:] == whole[tail:]


def test_killed_after_the_answer_was_lost_it_sends_the_same_again(
    server: Coordinator, url: str, rows: Path, tmp_path: Path
) -> None:
    device = make_device(tmp_path / "device", url, rows)
    upload = device.connection.upload

    def lost(task: str, content: bytes) -> None:
        upload(task, content)
        raise Killed

    device.connection.upload = lost  # type: ignore[method-assign,assignment]
    with pytest.raises(Killed):
        device.run()
    assert make_device(tmp_path / "device", url, rows).run().sent == 1
    assert server.versions()[0].updates == 1


def test_a_server_that_is_away_is_waited_for(
    server: Coordinator, url: str, rows: Path, tmp_path: Path
) -> None:
    device = make_device(tmp_path / "device", url, rows)
    upload, tries, slept = device.connection.upload, [], []

    def failing(task: str, content: bytes):  # type: ignore[no-untyped-def]  # noqa: ANN202
        tries.append(task)
        if len(tries) == 1:
            raise NetworkError("the server cannot be reached")
        if len(tries) == 2:
            raise Refusal(Reason.BUSY, "too much at once", retry_after_seconds=77.0)
        return upload(task, content)

    device.connection.upload = failing  # type: ignore[method-assign]
    device.sleep = slept.append
    assert device.run().sent == 1
    assert len(tries) == 3
    assert slept[-1] >= 77, "the server said how long to wait"


def test_patience_ends(tmp_path: Path, rows: Path) -> None:
    settings = DeviceSettings(patience_seconds=30.0)
    device = make_device(tmp_path / "device", "http://127.0.0.1:1", rows, settings)
    clock = Clock()
    device.clock = clock

    def sleep(seconds: float) -> None:
        clock.now += 10

    device.sleep = sleep
    with pytest.raises(NetworkError):
        device.run()


def test_an_update_that_comes_too_late_is_dropped(
    server: Coordinator, url: str, artifact: Artifact, rows: Path, tmp_path: Path
) -> None:
    device = make_device(tmp_path / "device", url, rows)

    def overtaken(offer: TaskOffer, state: RoundState) -> None:
        if state.steps == 1:
            server.go_back(0)

    device.on_step = overtaken
    assert device.run().refused == 1
    assert events(tmp_path / "device") == ["task", "refused"]
    sent = DeviceState(tmp_path / "device").last_update()
    assert sent is not None, "its bytes have left the device"
    assert sent["acknowledged"] is False


def test_after_the_deadline_nothing_is_trained(url: str, rows: Path, tmp_path: Path) -> None:
    device = make_device(tmp_path / "device", url, rows)
    clock = Clock()
    device.clock = clock
    steps = []

    def slow(offer: TaskOffer, state: RoundState) -> None:
        steps.append(state.steps)
        clock.now += 400

    device.on_step = slow
    assert device.run().refused == 1
    assert steps == [1, 2]
    assert events(tmp_path / "device") == ["task", "late"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NumericsError("NaN"), "bad_numbers"),
        (WorkerError("the process died"), "crashed"),
        (DataError("row 3"), "data"),
    ],
)
def test_what_it_cannot_do_it_gives_back(
    server: Coordinator, url: str, rows: Path, tmp_path: Path, error: Exception, reason: str
) -> None:
    device = make_device(tmp_path / "device", url, rows)

    def fail(offer: TaskOffer, state: RoundState) -> None:
        raise error

    device.on_step = fail
    if isinstance(error, DataError):
        with pytest.raises(DataError):
            device.run()
    else:
        assert device.run().given_back == 1
    lines = list(DeviceState(tmp_path / "device").log())
    assert [line["event"] for line in lines] == ["task", "given back"]
    assert lines[1]["reason"] == reason
    assert server.status().training == 0
    assert isinstance(ask(server, "another-device"), TaskOffer), "its place is free"


def test_a_task_of_another_server_is_forgotten(
    server: Coordinator, url: str, artifact: Artifact, rows: Path, tmp_path: Path
) -> None:
    def kill(offer: TaskOffer, state: RoundState) -> None:
        raise Killed

    device = make_device(tmp_path / "device", url, rows)
    device.on_step = kill
    with pytest.raises(Killed):
        device.run()
    with (
        opened_server(artifact, tmp_path / "other", Clock(), ROUNDS) as other,
        listening(other) as address,
    ):
        assert make_device(tmp_path / "device", address, rows).run().sent == 1
    assert events(tmp_path / "device") == ["task", "abandoned", "task", "sent"]


def test_a_plan_that_nobody_has_is_refused_for_good(url: str, rows: Path, tmp_path: Path) -> None:
    device = make_device(tmp_path / "device", url, rows, DeviceSettings(plan="executorch"))
    with pytest.raises(Refusal) as caught:
        device.run()
    assert caught.value.reason is Reason.NO_COMMON_PLAN


def test_a_device_keeps_its_id(tmp_path: Path) -> None:
    first, again = DeviceState(tmp_path / "a").device, DeviceState(tmp_path / "a").device
    assert first == again
    assert DeviceState(tmp_path / "b").device != first


def test_updates_of_made_up_devices_and_of_real_ones_merge(
    artifact: Artifact, rows: Path, tmp_path: Path
) -> None:
    rounds = replace(ROUNDS, goal=2, over_selection=1.0)
    with (
        opened_server(artifact, tmp_path / "server", Clock(), rounds) as server,
        listening(server) as address,
    ):
        offer = ask(server, "made-up-device")
        assert isinstance(offer, TaskOffer)
        send(server, device_update(artifact, offer), offer.task)
        assert make_device(tmp_path / "device", address, rows).run().sent == 1
        with ServerConnection(address) as connection:
            while connection.status().version < 1:
                server.turn()
            assert connection.versions()[0].updates == 2
