"""What a device does not do: use more memory than it may, or work when it may not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ravan_edge.device.training as device_training
from ravan_edge.artifact import Artifact
from ravan_edge.device import DeviceSettings, DeviceState
from ravan_edge.errors import MemoryLimitError, NumericsError
from ravan_edge.methods import method_for
from ravan_edge.protocol import TaskOffer, decode_update
from ravan_edge.training import LocalSettings, RoundState
from ravan_server.coordinator import Coordinator
from ravan_server.settings import ServerSettings
from tests.device.device_kit import LOCAL, ROUNDS, MadeUpConditions, make_device
from tests.server.server_kit import Clock, listening, opened_server


def test_a_memory_limit_makes_micro_batches_smaller_and_then_gives_back(
    server: Coordinator, url: str, rows: Path, tmp_path: Path
) -> None:
    settings = DeviceSettings(memory_limit="1MB", checkpoint_seconds=0)
    device = make_device(tmp_path / "device", url, rows, settings)
    said: list[str] = []
    device.say = said.append
    with pytest.raises(MemoryLimitError, match="more than 1 MB"):
        device.run()
    assert [text for text in said if "rows at once" in text][-1].endswith("now 1 rows at once")
    last = list(DeviceState(tmp_path / "device").log())[-1]
    assert (last["event"], last["reason"]) == ("given back", "out_of_memory")
    assert server.status().training == 0


def test_a_memory_limit_that_is_kept_changes_nothing(url: str, rows: Path, tmp_path: Path) -> None:
    settings = DeviceSettings(memory_limit="100GB", tasks=1)
    assert make_device(tmp_path / "device", url, rows, settings).run().sent == 1


@pytest.mark.parametrize(
    ("own", "rows_at_once"),
    [
        ({"memory_limit": "100GB"}, 64),
        ({"memory_limit": "100GB", "micro_batch": 500}, 500),
        ({"micro_batch": 500}, 500),
        ({}, None),
    ],
)
def test_a_device_with_a_memory_limit_never_begins_with_the_batch_of_a_hostile_server(
    artifact: Artifact,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: dict[str, Any],
    rows_at_once: int | None,
) -> None:
    begun: list[int | None] = []

    def begins(*arguments: Any, **named: Any) -> None:
        (local,) = [each for each in arguments if isinstance(each, LocalSettings)]
        begun.append(local.micro_batch)
        assert local.batch_size == 65_536
        raise NumericsError("enough")

    monkeypatch.setattr(device_training, "local_round", begins)
    asked = replace(ROUNDS, local=replace(LOCAL, batch_size=65_536))
    with (
        opened_server(artifact, tmp_path / "greedy", Clock(), asked) as server,
        listening(server) as url,
    ):
        device = make_device(tmp_path / "device", url, rows, DeviceSettings(tasks=1, **own))
        assert device.run().given_back == 1
    assert begun == [rows_at_once]


def test_it_waits_for_mains_power(url: str, rows: Path, tmp_path: Path) -> None:
    def plug(conditions: MadeUpConditions) -> None:
        conditions.mains_power = conditions.looks > 3

    conditions = MadeUpConditions(mains_power=False, later=plug)
    settings = DeviceSettings(mains_power=True, tasks=1)
    device = make_device(tmp_path / "device", url, rows, settings, conditions)
    said: list[str] = []
    device.say = said.append
    assert device.run().sent == 1
    assert said[0].startswith("waiting for mains power")


def test_it_pauses_when_the_hours_end_and_gives_back_at_the_deadline(
    server: Coordinator, url: str, rows: Path, tmp_path: Path
) -> None:
    clock, conditions = Clock(), MadeUpConditions(minute=60)
    settings = DeviceSettings(hours="00:00-02:00", tasks=1)
    device = make_device(tmp_path / "device", url, rows, settings, conditions)
    device.clock = clock

    def sleep(seconds: float) -> None:
        clock.now += 60

    def morning(offer: TaskOffer, state: RoundState) -> None:
        conditions.minute = 3 * 60

    device.sleep, device.on_step = sleep, morning
    assert device.run().given_back == 1
    assert server.status().training == 0
    assert list(DeviceState(tmp_path / "device").log())[-1]["reason"] == "conditions"


def test_fewer_heads_train_where_the_device_says_so(
    url: str, artifact: Artifact, rows: Path, tmp_path: Path
) -> None:
    settings = DeviceSettings(train_heads=2, tasks=1)
    assert make_device(tmp_path / "device", url, rows, settings).run().sent == 1
    content = DeviceState(tmp_path / "device").last_update_path.read_bytes()
    update = decode_update(
        content, artifact.manifest, method_for(artifact.manifest), artifact.digest
    )
    assert {len(heads) for heads in update.trained.values()} == {2}


def test_smaller_micro_batches_change_the_last_bits_at_most(
    server: Coordinator, url: str, artifact: Artifact, rows: Path, tmp_path: Path
) -> None:
    settings = DeviceSettings(micro_batch=3, tasks=1)
    assert make_device(tmp_path / "device", url, rows, settings).run().sent == 1
    other = replace(ROUNDS, local=LOCAL)
    with (
        opened_server(artifact, tmp_path / "other", Clock(), other, ServerSettings(seed=5)) as twin,
        listening(twin) as address,
    ):
        make_device(tmp_path / "twin", address, rows).run()
    found = []
    for name in ("device", "twin"):
        content = DeviceState(tmp_path / name).last_update_path.read_bytes()
        found.append(
            decode_update(
                content, artifact.manifest, method_for(artifact.manifest), artifact.digest
            ).difference
        )
    error = np.linalg.norm(found[0] - found[1]) / np.linalg.norm(found[1])
    assert 0 <= error < 1e-5
