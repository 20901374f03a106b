"""`ravan serve`, `status` and `heads` as a shell runs them: processes, a port, exit codes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ravan_edge.artifact import open_artifact, read_heads
from ravan_edge.device import ServerConnection
from tests.cli.calls import ravan
from tests.cli.servers import RAVAN, Server, one_round, serve, serving
from tests.server.server_kit import wait_until
from tests.tiny_artifact import Method, make_tiny_artifact, tiny_rows


@pytest.fixture(scope="module")
def artifact(tiny: dict[Method, Path]) -> Path:
    return tiny["ravan"]


@pytest.fixture(scope="module")
def server(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with versions 0, 1 and 2; version 1 is forgotten. Tests only read from it."""
    state = tmp_path_factory.mktemp("server") / "state"
    words = ("--goal", 1, "--keep-versions", 1, "--rounds", 9)
    with serving(artifact, state, *words) as running:
        for _ in range(2):
            one_round(running, artifact, 1)
        with ServerConnection(running.url) as connection:
            wait_until(lambda: not connection.versions()[1].available)
        yield running


@pytest.fixture
def nobody() -> str:
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


# The happy path


def test_a_run_from_start_to_end_and_on(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "deep" / "state"  # made, with the folders above it
    state.parent.mkdir()
    with serving(artifact, state, "--goal", 2, "--rounds", 2) as running:
        at = ("--server", running.url)
        begin = ravan(capsys, "status", *at, "--json").document
        assert (begin["version"], begin["round"], begin["state"]) == (0, 1, "waiting")
        one_round(running, artifact, 2)
        text = ravan(capsys, "status", *at).out
        assert "state     waiting\n" in text
        assert "round     2 of 2\n" in text
        assert "version   1 (" in text
        assert "updates   0 of 2 stored, 0 on their way\n" in text
        assert "devices   2\n" in text
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
    with serving(artifact, state, "--goal", 2, "--rounds", 2) as running:
        at = ("--server", running.url)
        one_round(running, artifact, 2)
        assert ravan(capsys, "status", *at, "--json").document["state"] == "finished"
        back = ravan(capsys, "heads", "rollback", 0, *at)
        assert (back.code, back.out) == (0, "version 3 has the heads of version 0\n")
        listed = ravan(capsys, "heads", "list", *at).out
        for origin in ("  version 0  ", "  2 updates  ", "  the artifact  "):
            assert origin in listed
        head, *lines = (line.split() for line in listed.splitlines())
        assert (head[-1], [line[-1] for line in lines[1:3]]) == ("kept", ["0", "0"])
        assert max(map(len, listed.splitlines())) <= 80
        out = tmp_path / "heads.safetensors"
        got = ravan(capsys, "heads", "get", 2, *at, "--out", out)
        assert got.code == 0
        assert str(out) in got.out
        assert read_heads(out, open_artifact(artifact))
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0
    assert "Traceback" not in state.with_suffix(".log").read_text()


def test_what_the_state_folder_holds(server: Server) -> None:
    state = server.log.with_suffix("")
    assert {path.name.partition("-")[0] for path in state.iterdir()} == {
        ".lock",
        "blobs",
        "state.sqlite",
        "updates",
    }
    assert len(list((state / "blobs").iterdir())) == 2


def test_versions_for_machines(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    versions = ravan(capsys, "heads", "list", "--server", server.url, "--json").document["versions"]
    assert [(each["version"], each["available"]) for each in versions] == [
        (2, True),
        (1, False),
        (0, True),
    ]
    assert "deleted" in ravan(capsys, "heads", "list", "--server", server.url).out


def test_heads_that_are_downloaded_are_those_of_the_list(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = ravan(capsys, "heads", "list", "--server", server.url, "--json").document["versions"]
    out = tmp_path / "h.safetensors"
    left = tmp_path / "h.safetensors.part"
    left.write_bytes(b"x")  # of another download, which was interrupted
    words = ("heads", "get", 2, "--server", server.url, "--out", out)
    assert ravan(capsys, *words).code == 9
    assert ravan(capsys, *words).code == 0
    assert hashlib.sha256(out.read_bytes()).hexdigest() == listed[0]["heads"]
    left.write_bytes(out.read_bytes()[:100])  # of this one
    out.unlink()
    assert ravan(capsys, *words).code == 0
    assert list(tmp_path.iterdir()) == [out]
    assert hashlib.sha256(out.read_bytes()).hexdigest() == listed[0]["heads"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_however_early(
    artifact: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with serving(artifact, tmp_path / "state") as running:
        running.process.send_signal(number)
        assert running.process.wait(30) == 0


def test_versions_are_scored_where_rows_are_given(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    with rows.open("w", newline="") as file:
        csv.writer(file).writerows([("body", "label"), *tiny_rows(30)])
    words = ("--test", rows, "--text-column", "body", "--goal", 1)
    with serving(artifact, tmp_path / "state", *words) as running:
        with ServerConnection(running.url) as connection:
            wait_until(lambda: connection.versions()[0].scores is not None)
        listed = ravan(capsys, "heads", "list", "--server", running.url).out
        assert "%" in listed


# Servers that do not start


def test_a_second_server_on_a_folder(artifact: Path, server: Server) -> None:
    call = serve(artifact, server.log.with_suffix(""))
    assert (call.code, call.out) == (2, "")
    assert "another process is working on this state folder" in call.err


def test_a_port_that_is_taken(artifact: Path, server: Server, tmp_path: Path) -> None:
    call = serve(artifact, tmp_path / "state", "--port", server.url.rpartition(":")[2])
    assert (call.code, call.out) == (9, "")
    assert "Address already in use" in call.err
    assert "--port 0" in call.err


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "server.test", ""])
def test_another_host_than_this_machine(
    artifact: Path, tmp_path: Path, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ravan(capsys, "serve", artifact, "--state", tmp_path / "state", "--host", host)
    assert call.code == 2
    assert "other machines can connect there" in call.err
    assert not (tmp_path / "state").exists()


def test_an_artifact_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ravan(capsys, "serve", tmp_path / "missing", "--state", tmp_path / "state")
    assert call.code == 3
    assert "missing" in call.err
    assert not (tmp_path / "state").exists()


def test_rows_that_are_not_there(artifact: Path, tmp_path: Path) -> None:
    call = serve(artifact, tmp_path / "state", "--test", tmp_path / "missing.csv")
    assert call.code == 4
    assert "missing.csv" in call.err


def test_a_state_of_another_artifact(artifact: Path, tmp_path: Path) -> None:
    with serving(artifact, tmp_path / "state") as running:
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(30)
    other = make_tiny_artifact(tmp_path / "other", seed=1)
    call = serve(other.folder, tmp_path / "state")
    assert call.code == 2
    assert "the state belongs to artifact" in call.err


def test_the_folder_of_a_device(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "device.json").touch()
    call = serve(artifact, tmp_path)
    assert call.code == 2
    assert "this is the folder of a device: device.json is in it" in call.err
    assert [path.name for path in tmp_path.iterdir()] == ["device.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(artifact: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert serve(artifact, tmp_path / "state").code == 9


def test_a_state_that_is_a_file(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("mine")
    assert serve(artifact, tmp_path / "state").code == 9
    assert (tmp_path / "state").read_text() == "mine"


def test_a_database_that_is_none(artifact: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "state.sqlite").write_text("no database, but long enough to look like one" * 100)
    call = serve(artifact, state)
    assert call.code == 9
    assert "state.sqlite" in call.err


@pytest.mark.parametrize(
    "words",
    [
        ("--goal", 0),
        ("--goal", 2, "--minimum", 3),
        ("--over-selection", 0.5),
        ("--deadline-seconds", "nan"),
        ("--port", 65_536),
        ("--lr", -1),
        ("--rounds", "many"),
        ("--local-steps", 0),
        ("--keep-versions", 0),
    ],
)
def test_settings_out_of_their_range(
    artifact: Path, tmp_path: Path, words: tuple[object], capsys: pytest.CaptureFixture[str]
) -> None:
    call = ravan(capsys, "serve", artifact, "--state", tmp_path / "state", *words)
    assert call.code == 2
    assert str(words[-2]) in call.err
    assert not (tmp_path / "state").exists()


# Commands of an operator that cannot be done


COMMANDS = [("status",), ("heads", "list"), ("heads", "get", "0", "--out", "h"),
            ("heads", "rollback", "0")]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_nobody_is_there(
    nobody: str,
    words: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    call = ravan(capsys, *words, "--server", nobody)
    assert call.code == 9
    assert "the server cannot be reached" in call.err
    assert nobody in call.err


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_address_that_is_none(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for address in ("127.0.0.1:8750", "ftp://server.test", "http://127.0.0.1:99999"):
        call = ravan(capsys, *words, "--server", address)
        assert call.code == 2
        assert "is no address of a server" in call.err


def test_something_else_listens_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "status").write_text("<html>hello</html>")
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(
        [*command, "--directory", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as other:
        assert other.stdout is not None
        port = other.stdout.readline().split(" port ")[1].split()[0]
        at = ("--server", f"http://127.0.0.1:{port}")
        status, versions = ravan(capsys, "status", *at), ravan(capsys, "heads", "list", *at)
        other.kill()
    assert (status.code, versions.code) == (9, 9)
    assert "not as the protocol says" in status.err
    assert "status 404 without a reason" in versions.err


def test_versions_that_are_not_there(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--server", server.url)
    for version in (1, 3, 10**15):
        call = ravan(capsys, "heads", "get", version, *at, "--out", tmp_path / "h")
        assert call.code == 2
        assert f"the server does not have version {version}" in call.err
        call = ravan(capsys, "heads", "rollback", version, *at)
        assert call.code == 6
        assert f"version {version} is not kept" in call.err
    assert ravan(capsys, "heads", "rollback", -1, *at).code == 2
    assert ravan(capsys, "heads", "rollback", 2**60, *at).code == 6
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_saved_to(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    get = ("heads", "get", 0, "--server", server.url, "--out")
    call = ravan(capsys, *get, tmp_path)
    assert call.code == 2
    assert "is a folder" in call.err
    call = ravan(capsys, *get, tmp_path / "missing" / "h")
    assert call.code == 9
    assert "mkdir -p" in call.err


def test_errors_for_machines(nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    call = ravan(capsys, "status", "--server", nobody, "--json")
    assert call.document["error"]["exit_code"] == 9
    assert json.loads(call.out)["error"]["kind"] == "NetworkError"


def test_the_list_of_commands_has_serve_and_no_server() -> None:
    done = subprocess.run([*RAVAN, "--help"], capture_output=True, text=True, check=True)
    for name in ("serve", "status", "heads"):
        assert f" {name} " in done.stdout
    assert " server  " not in done.stdout
