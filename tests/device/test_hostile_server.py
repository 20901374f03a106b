"""What a device or an operator makes of answers, and of its own folder."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest

from ravan_edge.device import DeviceSettings, DeviceState, ServerConnection
from ravan_edge.device.cache import ArtifactCache
from ravan_edge.errors import NetworkError, StorageError, UsageError
from ravan_edge.protocol import (
    PROTOCOL_VERSION,
    CheckIn,
    Reason,
    Refusal,
    VersionInfo,
    Versions,
)

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\nall is well"


def answering(status: int, content: str) -> ServerConnection:
    """A server that says one thing."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=iter([content.encode()]))

    return ServerConnection("https://server.example", httpx2.MockTransport(answer))


def test_a_refusal_cannot_command_the_terminal() -> None:
    problem = Refusal(Reason.ROUND_OVER, HOSTILE).problem
    with (
        answering(problem.status, problem.model_dump_json()) as connection,
        pytest.raises(Refusal) as caught,
    ):
        connection.status()
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith("all is well")


def test_nonsense_cannot_command_the_terminal() -> None:
    with (
        answering(200, json.dumps({HOSTILE: 1})) as connection,
        pytest.raises(NetworkError) as caught,
    ):
        connection.status()
    assert str(caught.value).isprintable()


def test_a_long_run_has_many_versions() -> None:
    info = VersionInfo(
        version=1,
        heads="0" * 64,
        bytes=1_000_000,
        updates=100,
        made_at="2026-01-01T00:00:00+00:00",
        available=True,
        scores={"accuracy": 0.9, "loss": 0.1, "count": 1000.0},
    )
    content = Versions(versions=(info,) * 10_000).model_dump_json()
    assert len(content) > 1 << 20
    with answering(200, content) as connection:
        assert len(connection.versions()) == 10_000


def test_an_answer_without_end_is_refused() -> None:
    with (
        answering(200, " " * (2 << 20)) as connection,
        pytest.raises(NetworkError, match="without end"),
    ):
        connection.status()


def test_folders_that_failed_downloads_left_do_not_stop_a_check_in(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    for number in range(70):
        (tmp_path / "artifacts" / f"{number:064x}").mkdir()
    (tmp_path / "artifacts" / "lost+found").mkdir()
    message = CheckIn(
        protocol=PROTOCOL_VERSION,
        device="device-1",
        plans=("whole",),
        artifacts=cache.digests(),
    )
    assert len(message.artifacts) == 64


def test_a_plan_that_is_no_name_is_refused() -> None:
    with pytest.raises(UsageError, match="--plan"):
        DeviceSettings(plan="My Plan")


@pytest.mark.parametrize("device", ["", "short", "two words", "x" * 65])
def test_a_damaged_id_is_refused(tmp_path: Path, device: str) -> None:
    (tmp_path / "device.json").write_text(json.dumps({"device": device}))
    with pytest.raises(StorageError, match="damaged"):
        DeviceState(tmp_path)
