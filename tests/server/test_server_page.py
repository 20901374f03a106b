"""docs/server.md: every option with its default, every file of the state folder, and safe backups."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ravan_edge.artifact import Artifact
from ravan_edge.cli.common import DataSettings
from ravan_edge.merge import MergeSettings, RoundRule
from ravan_edge.protocol import KINDS, Reason, UploadSettings
from ravan_edge.training import LocalSettings
from ravan_edge.training.options import option_infos, option_name
from ravan_server import serving
from ravan_server.http.connection import ConnectionLimits
from ravan_server.settings import DEFAULT_CONNECTIONS, RoundSettings, ServerSettings
from tests.server.crash_checks import check_state, go_on
from tests.server.server_kit import Clock, ask, device_update, opened_server, send, wait_until
from tests.tiny_artifact import make_tiny_artifact

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "server.md").read_text("utf-8")
PROTOCOL = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text("utf-8")
OPTIONS = PAGE.split("## Options")[1].split("\n## ")[0]


def test_every_option_is_there_and_no_other() -> None:
    classes = (
        RoundSettings,
        RoundRule,
        MergeSettings,
        UploadSettings,
        ServerSettings,
        LocalSettings,
        DataSettings,
    )
    names = {option_name(item.name) for kind in classes for item, _ in option_infos(kind)}
    documented = {
        name
        for line in OPTIONS.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(--[a-z0-9-]+)`", line.split("|")[1])
    }
    assert documented == names | {"--state", "--test"}


def test_the_rows_of_a_table_have_as_many_cells_as_its_head() -> None:
    """A line of one table that slips into another shows in the number of cells, or in the next test."""
    tables: list[list[str]] = [[]]
    for line in PAGE.splitlines():
        if line.startswith("|"):
            tables[-1].append(line)
        elif tables[-1]:
            tables.append([])
    tables = [table for table in tables if table]
    assert len(tables) > 5
    for head, rule, *rows in tables:
        count = len(_cells(head))
        assert rule == "|" + "---|" * count
        assert rows
        for row in rows:
            assert len(_cells(row)) == count, row
            assert row.endswith("|"), row


def test_every_option_says_when_a_change_takes_effect() -> None:
    moments = ("at once", "at the next merge", "from the next attempt on")
    rows = [_cells(line) for line in OPTIONS.splitlines() if line.startswith("| `--")]
    assert rows
    for row in rows:
        assert row[3].startswith(moments) or row[0] in {"`--state`", "`--test`"}, row


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


@pytest.mark.parametrize(
    "kind", [RoundSettings, RoundRule, MergeSettings, UploadSettings, ServerSettings]
)
def test_every_default_is_the_one_of_the_code(
    kind: type[RoundSettings | RoundRule | MergeSettings | UploadSettings | ServerSettings],
) -> None:
    for item, _ in option_infos(kind):
        row = next(line for line in OPTIONS.splitlines() if f"`{option_name(item.name)}`" in line)
        shown = NO_DEFAULT.get(item.name, "") if item.default is None else _shown(item.default)
        assert row.split("|")[2].strip() == shown, item.name


NO_DEFAULT = {
    "minimum": "as many as without a deadline",
    "buffer": "the goal",
    "max_staleness": "no limit",
    "operator_token_file": "made once",
    "connections": f"{DEFAULT_CONNECTIONS}, or what fits",
}


def test_every_limit_of_a_connection_is_on_both_pages() -> None:
    limits = ConnectionLimits()
    network = PAGE.split("## What the network can do to it")[1].split("\n## ")[0]
    protocol = PROTOCOL.split("## 9. Limits")[1]
    for page in (network, protocol):
        assert f"{limits.head_bytes} bytes" in page
        assert f"{limits.head_lines} headers" in page
        assert f"{limits.head_seconds:g} seconds" in page
        assert f"{limits.body_bytes} bytes" in page
        assert f"in every {limits.body_seconds:g} seconds" in page
        assert f"{limits.idle_seconds:g} seconds" in page
        assert f"{limits.unread_seconds:g} seconds" in page
        assert f"| {limits.sent_ahead}" in page
    assert f"the handshake of TLS | {limits.handshake_seconds:g} seconds" in network
    assert f"at most {2 * limits.body_seconds:g} seconds" in network
    for reason in re.findall(r"`([a-z_]+)` \((\d+)\)", network):
        assert reason[0] in set(Reason)
        assert KINDS[Reason(reason[0])].status == int(reason[1])
    assert limits.per_address == ServerSettings().connections_per_address


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_every_file_of_the_state_is_there() -> None:
    table = PAGE.split("## The state folder")[1]
    folders = (serving.UPDATES_NAME, serving.BLOBS_NAME, serving.SCRATCH_NAME)
    for name in (serving.DATABASE_NAME, *(f"{folder}/" for folder in folders)):
        assert f"`{name}`" in table
    for path in re.findall(r"tests/server/\w+\.py", PAGE):
        assert (Path(__file__).resolve().parents[2] / path).is_file()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("backup") / "artifact")


def test_a_damaged_update_is_found_and_can_be_left_behind(
    artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rounds = RoundSettings(local=LocalSettings(local_steps=1), goal=2, over_selection=1)
    with opened_server(artifact, tmp_path, Clock(), rounds) as server:
        offers = [ask(server, f"device-{number:03}") for number in range(2)]
        for offer in offers:
            assert offer.answer == "task"
            send(server, device_update(artifact, offer), offer.task)
            for segment in (tmp_path / serving.UPDATES_NAME).iterdir():
                with segment.open("r+b") as file:
                    file.seek(900)
                    file.write(b"damage")
        wait_until(lambda: "an update is not what was stored" in caplog.text)
        assert server.status().state == "merging"
        assert server.go_back(0).version == 1
        assert (server.status().state, server.status().attempt) == ("waiting", 2)
        assert ask(server, "device-000").answer == "task"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_a_copy_of_a_frozen_server_is_a_backup(artifact: Artifact, tmp_path: Path) -> None:
    """SIGSTOP, copy, SIGCONT, while devices send; each copy holds what was promised before it."""
    state, marks = tmp_path / "state", tmp_path / "marks"
    command = [sys.executable, "-m", "tests.server.crash_program", str(artifact.folder)]
    copies = []
    with subprocess.Popen([*command, str(state), str(marks), "4", "sync"]) as process:
        said = 0
        while process.poll() is None:
            now = marks.read_text().splitlines() if marks.exists() else []
            if len(now) < said + 3:
                continue
            process.send_signal(signal.SIGSTOP)
            copy = tmp_path / f"copy{len(copies)}"
            shutil.copytree(state, copy)
            copies.append((copy, marks.read_text().splitlines()))
            process.send_signal(signal.SIGCONT)
            said = len(now)
    assert process.returncode == 0
    assert len(copies) >= 3
    for copy, promised in copies:
        latest = check_state(artifact, copy, promised, "sync")
        assert go_on(artifact, copy, latest + 1, "sync")
