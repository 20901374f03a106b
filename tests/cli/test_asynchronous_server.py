"""`ravan serve --mode async` and `ravan device` as shells run them, some of them killed."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import pytest

from ravan_edge.device import ServerConnection
from tests.cli.calls import ravan
from tests.cli.servers import RAVAN, Server, serving
from tests.server.server_kit import wait_until
from tests.tiny_artifact import Method, tiny_rows


@pytest.fixture(scope="module")
def artifact(tiny: dict[Method, Path]) -> Path:
    return tiny["ravan"]


def test_an_asynchronous_run_with_real_devices_one_of_them_killed(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_file(tmp_path / "rows.csv")
    words = ("--mode", "async", "--goal", 3, "--buffer", 2, "--rounds", 4, "--local-steps", 3)
    with serving(artifact, tmp_path / "state", *words, "--check-ins-per-second", 1000) as running:
        status = ravan(capsys, "status", "--server", running.url)
        assert "state     waiting, asynchronous\n" in status.out
        devices = [device(running, rows, tmp_path / f"device{number}") for number in range(3)]
        devices[0].kill()
        devices[0].communicate()
        devices[0] = device(running, rows, tmp_path / "device0")
        with ServerConnection(running.url) as connection:
            wait_until(lambda: connection.status().state == "finished", 120)
            assert connection.status().devices == 3
            assert [each.updates for each in connection.versions()] == [2, 2, 2, 2, 0]
        for each in devices:
            each.terminate()
            each.communicate()
    assert "Traceback" not in (tmp_path / "state.log").read_text()


def rows_file(path: Path) -> Path:
    """A few rows to train on."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("body", "label"), *tiny_rows(30)])
    return path


def device(server: Server, rows: Path, state: Path) -> subprocess.Popen[str]:
    """A device that goes on until it is ended."""
    command = [*RAVAN, "device", "--server", server.url, "--data", str(rows), "--state", str(state)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )
