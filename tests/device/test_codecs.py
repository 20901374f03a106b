"""Every codec between a real device and a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ravan_edge.artifact import Artifact, read_heads
from ravan_edge.codecs import CodecName
from ravan_edge.device import DeviceState
from ravan_edge.merge import ExactSum, MergeScale
from ravan_edge.methods import method_for
from ravan_edge.protocol import CheckIn, Reason, TaskOffer, UploadSettings, decode_update
from ravan_server.coordinator import Coordinator
from ravan_server.settings import ServerSettings
from tests.cli.calls import ravan
from tests.device.device_kit import ROUNDS, events, make_device
from tests.server.devices import encoded
from tests.server.server_kit import Clock, listening, opened_server, wait_for


@contextmanager
def served(
    artifact: Artifact, state: Path, upload: UploadSettings
) -> Iterator[tuple[Coordinator, str]]:
    rounds = replace(ROUNDS, upload=upload)
    settings = ServerSettings(rounds=2, seed=5)
    with ExitStack() as stack:
        coordinator = stack.enter_context(opened_server(artifact, state, Clock(), rounds, settings))
        yield coordinator, stack.enter_context(listening(coordinator))


@pytest.mark.parametrize("codec", list(CodecName))
def test_what_is_shown_is_what_was_sent_and_merged(
    codec: CodecName,
    artifact: Artifact,
    rows: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    method, folder = method_for(artifact.manifest), tmp_path / "device"
    with served(artifact, tmp_path / "server", UploadSettings(codec, 0.25)) as (server, url):
        assert make_device(folder, url, rows).run().sent == 1
        wait_for(server, 1)
        path = server.blob(server.status().heads)
        merged = method.layout.pack(read_heads(path, artifact))
    content = DeviceState(folder).last_update_path.read_bytes()
    update = decode_update(content, artifact.manifest, method, artifact.digest)
    assert update.info.codec is codec
    total = ExactSum.empty(method.layout.size, MergeScale.for_cohort(1))
    total.add(update.difference, update.mask)
    assert (merged == total.apply(method.layout.pack(artifact.initial_heads()))).all()
    assert np.count_nonzero(update.difference) > 20
    shown = json.loads(ravan(capsys, "device", "show-last-update", "--state", folder, "--json").out)
    assert shown["metadata"]["codec"] == codec
    assert shown["bytes"] == len(content)
    found = {row["name"]: row["dtype"] for row in shown["tensors"] if row["name"] != "classifier"}
    forms = {
        CodecName.FP16: {"numbers": "float16"},
        CodecName.INT8: {"numbers": "int8", "scales": "bfloat16"},
        CodecName.INT4: {"numbers": "uint8", "scales": "bfloat16"},
        CodecName.TOP_K: {"numbers": "float32", "indices": "int32"},
    }
    assert found.items() >= forms.get(codec, {}).items()
    text = ravan(capsys, "device", "show-last-update", "--state", folder).out
    assert all(name in text for name in found)


def test_a_smaller_codec_sends_fewer_bytes(artifact: Artifact, rows: Path, tmp_path: Path) -> None:
    sizes = {}
    for codec in CodecName:
        folder = tmp_path / f"device-{codec}"
        state = tmp_path / f"server-{codec}"
        with served(artifact, state, UploadSettings(codec)) as (_, url):
            make_device(folder, url, rows).run()
        sizes[codec] = DeviceState(folder).last_update_path.stat().st_size
    assert sizes[CodecName.INT4] <= sizes[CodecName.INT8] < sizes[CodecName.FP16]
    assert sizes[CodecName.FP16] < sizes[CodecName.FP32]


def test_another_codec_than_the_tasks_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    with served(artifact, tmp_path / "server", UploadSettings(CodecName.INT8)) as (server, url):
        message = CheckIn(protocol=1, device="device-0", plans=("whole",))
        device = make_device(tmp_path / "device", url, tmp_path)
        offer = device.connection.check_in(message)
        assert isinstance(offer, TaskOffer)
        assert (offer.upload.codec, offer.upload.top_k_share) == (CodecName.INT8, None)
        for codec in set(CodecName) - {CodecName.INT8}:
            with pytest.raises(Exception, match="its task asks for int8") as caught:
                device.connection.upload(offer.task, encoded(artifact, offer.task, codec=codec))
            assert caught.value.reason is Reason.WRONG_CODEC  # type: ignore[attr-defined]
        assert server.status().accepted == 0
        receipt = device.connection.upload(
            offer.task, encoded(artifact, offer.task, codec=CodecName.INT8)
        )
        assert receipt.status == "accepted"


def test_an_attempt_keeps_the_codec_it_was_opened_with(
    artifact: Artifact, rows: Path, tmp_path: Path
) -> None:
    """A restart with another one changes the next: devices that work were told the first."""
    state, folder = tmp_path / "server", tmp_path / "device"
    with served(artifact, state, UploadSettings(CodecName.INT4)):
        pass
    with served(artifact, state, UploadSettings(CodecName.TOP_K, 0.2)) as (server, url):
        make_device(folder, url, rows).run()
        first = DeviceState(folder).last_update_path.read_bytes()
        wait_for(server, 1)
        make_device(folder, url, rows).run()
        second = DeviceState(folder).last_update_path.read_bytes()
        wait_for(server, 2)
    assert b'"codec":"int4"' in first
    assert b'"codec":"top-k"' in second
    assert events(folder) == ["task", "sent"] * 2
