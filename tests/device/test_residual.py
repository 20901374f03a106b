"""Error feedback on a device: its residual changes with the answer of the server, whatever is killed when."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import ravan_edge.device.training as device_training
from ravan_edge.artifact import Artifact
from ravan_edge.codecs import CodecName
from ravan_edge.device import Device, DeviceSettings, DeviceState, ServerConnection
from ravan_edge.errors import StorageError
from ravan_edge.methods import Vector, method_for
from ravan_edge.protocol import CodedDifference, Reason, code_difference, decode_update
from ravan_edge.training import LocalResult
from tests.device.device_kit import Killed, MadeUpConditions, events, load_rows
from tests.device.made_up_server import MadeUpServer
from tests.simulate.faults import FailingDisk, disk_full
from tests.simulate.faults import Killed as KilledAtDisk
from tests.tiny_artifact import make_tiny_artifact

BIASED = [CodecName.FP16, CodecName.TOP_K]
OVER = Reason.ROUND_OVER


@dataclass(frozen=True)
class Kit:
    """A place for devices, which share the artifact's files."""

    artifact: Artifact
    rows: Path
    folder: Path

    def device(self, server: MadeUpServer, state: Path) -> Device:
        """A process that starts on a state folder."""
        return Device(
            DeviceState(state),
            cast(ServerConnection, server),
            load_rows(self.rows),
            DeviceSettings(checkpoint_seconds=10**6),
            MadeUpConditions(),
            cache=self.folder / "cache",
            sleep=lambda seconds: None,
            uniform=lambda low, high: low,
        )

    def residual(self, state: Path) -> Vector | None:
        size = method_for(self.artifact.manifest).layout.size
        return DeviceState(state).residual.load(self.artifact.digest, size)


@pytest.fixture
def kit(artifact: Artifact, rows: Path, tmp_path: Path) -> Kit:
    (tmp_path / "cache").mkdir()
    return Kit(artifact, rows, tmp_path)


@dataclass
class Coding:
    """What a device coded: the difference, the residual it added, and what came of it."""

    difference: Vector
    residual: Vector | None
    found: CodedDifference


@pytest.fixture
def codings(monkeypatch: pytest.MonkeyPatch) -> list[Coding]:
    """Each coding of a device, in order."""
    seen: list[Coding] = []

    def recorded(codec: Any, method: Any, difference: Vector, *rest: Any) -> CodedDifference:
        found = code_difference(codec, method, difference, *rest)
        seen.append(Coding(difference, rest[1], found))
        return found

    monkeypatch.setattr(device_training, "code_difference", recorded)
    return seen


@pytest.mark.parametrize("codec", BIASED)
def test_what_was_not_sent_is_sent_next(codec: CodecName, kit: Kit, codings: list[Coding]) -> None:
    server = MadeUpServer(kit.artifact, codec, (None, None, None))
    assert kit.device(server, kit.folder / "device").run().sent == 3
    assert codings[0].residual is None
    method = method_for(kit.artifact.manifest)
    arrived = wanted = np.zeros(method.layout.size)
    for before, after in zip([None, *codings], [*codings, None], strict=True):
        if before is not None:
            assert before.found.residuals is not None
            kept = before.found.residuals.acknowledged
            found = kit.residual(kit.folder / "device") if after is None else after.residual
            assert found is not None
            assert (found == kept).all()
            assert kept.any()
    for number, coding in enumerate(codings):
        content = server.stored[f"task-{number}"]
        update = decode_update(content, kit.artifact.manifest, method, kit.artifact.digest)
        assert (update.difference == coding.found.received).all()
        arrived, wanted = arrived + update.difference, wanted + coding.difference
    last = kit.residual(kit.folder / "device")
    assert last is not None
    np.testing.assert_allclose(arrived + last, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("codec", BIASED)
@pytest.mark.parametrize("reason", [Reason.ROUND_OVER, Reason.BAD_NUMBERS, Reason.NO_SUCH_TASK])
def test_what_was_refused_is_taken_back_as_a_whole(
    codec: CodecName, reason: Reason, kit: Kit, codings: list[Coding]
) -> None:
    server = MadeUpServer(kit.artifact, codec, (None, reason, None))
    report = kit.device(server, kit.folder / "device").run()
    assert (report.sent, report.refused) == (2, 1)
    first, second, third = codings
    assert second.residual is not None
    assert third.residual is not None
    assert (third.residual == second.difference + second.residual).all()
    assert first.found.residuals is not None
    assert (second.residual == first.found.residuals.acknowledged).all()
    assert events(kit.folder / "device") == ["task", "sent", "task", "refused", "task", "sent"]


def test_another_update_of_the_task_counts_so_nothing_is_taken_back(
    kit: Kit, codings: list[Coding]
) -> None:
    server = MadeUpServer(kit.artifact, CodecName.TOP_K, (None, Reason.DIFFERENT_UPDATE, None))
    kit.device(server, kit.folder / "device").run()
    assert codings[1].residual is not None
    assert codings[2].residual is not None
    assert (codings[2].residual == codings[1].residual).all()


@pytest.mark.parametrize("codec", [CodecName.FP32, CodecName.INT8, CodecName.INT4])
def test_without_a_bias_nothing_is_kept(codec: CodecName, kit: Kit, codings: list[Coding]) -> None:
    server = MadeUpServer(kit.artifact, codec, (None, OVER, None))
    kit.device(server, kit.folder / "device").run()
    assert all(coding.residual is None for coding in codings)
    assert not list((kit.folder / "device").glob("residual*"))


def test_a_residual_of_another_artifact_is_dropped(kit: Kit, codings: list[Coding]) -> None:
    state = kit.folder / "device"
    first = MadeUpServer(kit.artifact, CodecName.TOP_K, (None,))
    kit.device(first, state).run()
    assert (state / "residual.safetensors").exists()
    other = make_tiny_artifact(kit.folder / "other", seed=9)
    assert other.digest != kit.artifact.digest
    # Whatever the codec of its task is, and even if the first artifact comes back.
    kit.device(MadeUpServer(other, CodecName.FP32, (None,)), state).run()
    assert not (state / "residual.safetensors").exists()
    kit.device(MadeUpServer(kit.artifact, CodecName.TOP_K, (None,)), state).run()
    assert [coding.residual for coding in codings] == [None, None]


@pytest.mark.parametrize("content", [b"", b"no tensor file", bytes(100)])
def test_a_damaged_residual_is_dropped(content: bytes, kit: Kit, codings: list[Coding]) -> None:
    state = kit.folder / "device"
    state.mkdir()
    (state / "residual.safetensors").write_bytes(content)
    kit.device(MadeUpServer(kit.artifact, CodecName.TOP_K, (None,)), state).run()
    assert codings[0].residual is None
    assert kit.residual(state) is not None


def test_training_that_fails_leaves_the_residual_as_it_was(kit: Kit) -> None:
    state = kit.folder / "device"
    kit.device(MadeUpServer(kit.artifact, CodecName.TOP_K, (None,)), state).run()
    before = kit.residual(state)
    device = kit.device(MadeUpServer(kit.artifact, CodecName.TOP_K, (None,)), state)

    def full(offer: object, found: LocalResult | Exception) -> None:
        if isinstance(found, LocalResult):
            raise StorageError("the disk is full")

    device.on_trained = full
    with pytest.raises(StorageError):
        device.run()
    after = kit.residual(state)
    assert before is not None
    assert after is not None
    assert (after == before).all()
    assert events(state)[-1] == "given back"


# -- kills

ANSWERS: list[tuple[Reason | None, ...]] = [(None, None), (OVER, None)]


def result_of(kit: Kit, server: MadeUpServer, state: Path) -> tuple[dict[str, bytes], bytes]:
    """What the server has, and what the device keeps."""
    assert not (state / "round" / "task.json").exists()
    return server.stored, (state / "residual.safetensors").read_bytes()


@contextmanager
def failing(at: int, error: Callable[[], BaseException]) -> Iterator[FailingDisk]:
    """A disk that fails at its n-th operation, deletions among them."""
    disk = FailingDisk(at, error)
    unlink, rmtree = Path.unlink, shutil.rmtree

    def failing_unlink(path: Path, missing_ok: bool = False) -> None:
        disk.step("unlink")
        unlink(path, missing_ok=missing_ok)

    def failing_rmtree(path: Any, *rest: Any, **named: Any) -> None:
        disk.step("rmtree")
        rmtree(path, *rest, **named)

    with disk.installed(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", failing_unlink)
        patch.setattr(shutil, "rmtree", failing_rmtree)
        yield disk


@pytest.mark.parametrize("codec", BIASED)
@pytest.mark.parametrize("answers", ANSWERS, ids=["taken", "refused"])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_an_upload_it_ends_as_if_it_were_not(
    codec: CodecName, answers: tuple[Reason | None, ...], number: int, when: str, kit: Kit
) -> None:
    calm = MadeUpServer(kit.artifact, codec, answers)
    kit.device(calm, kit.folder / "calm").run()
    server = MadeUpServer(kit.artifact, codec, answers, kill=(number, when))
    with pytest.raises(Killed):
        kit.device(server, kit.folder / "killed").run()
    kit.device(server, kit.folder / "killed").run()
    assert server.uploads == 3
    expected = result_of(kit, calm, kit.folder / "calm")
    assert result_of(kit, server, kit.folder / "killed") == expected


@pytest.mark.parametrize("answers", ANSWERS, ids=["taken", "refused"])
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(KilledAtDisk, marks=pytest.mark.slow, id="killed"),
        pytest.param(disk_full, id="disk full"),
    ],
)
def test_killed_at_any_operation_it_ends_as_if_it_were_not(
    answers: tuple[Reason | None, ...], error: Callable[[], BaseException], kit: Kit
) -> None:
    def ran(name: str, at: int) -> tuple[MadeUpServer, FailingDisk]:
        server, state = MadeUpServer(kit.artifact, CodecName.TOP_K, answers), kit.folder / name
        with failing(at, error) as disk, suppress(KilledAtDisk, StorageError, OSError):
            kit.device(server, state).run()
        return server, disk

    ran("warm", 10**9)  # fills the cache of token ids
    calm, disk = ran("calm", 10**9)
    expected = result_of(kit, calm, kit.folder / "calm")
    operations = len(disk.operations)
    assert operations > 40
    for at in range(0, operations, 3 if error is disk_full else 1):
        server, disk = ran(f"at-{at}", at)
        assert disk.failed
        kit.device(server, kit.folder / f"at-{at}").run()
        if error is disk_full and len(server.ended - set(server.stored)) > answers.count(OVER):
            continue  # the device gave the task back, as it should with a full disk
        assert result_of(kit, server, kit.folder / f"at-{at}") == expected, at
