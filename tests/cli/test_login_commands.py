"""A server with a login, its operators and its devices, as a shell runs them."""

from __future__ import annotations

import csv
import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.calls import ravan
from tests.cli.servers import Server, serve, serving
from tests.tiny_artifact import Method, tiny_rows

ENDED = {"--goal": 1, "--over-selection": 1, "--rounds": 2, "--local-steps": 2}
WORDS = [word for pair in ENDED.items() for word in pair]


@pytest.fixture(scope="module")
def artifact(tiny: dict[Method, Path]) -> Path:
    return tiny["ravan"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *tiny_rows(40, seed=3)])
    return path


@pytest.fixture(scope="module")
def running(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that all tests of bad input share."""
    state = tmp_path_factory.mktemp("login") / "state"
    with serving(artifact, state, "--enrolment", *WORDS) as server:
        yield server


@pytest.fixture
def operator(running: Server) -> list[str]:
    token = running.log.with_suffix("") / "operator.token"
    return ["--server", running.url, "--token-file", str(token)]


def test_from_the_invitation_to_the_end(
    artifact: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, device, invitation = tmp_path / "state", tmp_path / "device", tmp_path / "invitation"
    said = []

    def run(*words: object) -> str:
        call = ravan(capsys, *map(str, words))
        said.extend([call.out, call.err])
        assert call.code == 0, call.err
        return call.out

    with serving(artifact, state, "--enrolment", *WORDS) as server:
        at = ("--server", server.url, "--token-file", state / "operator.token")
        shown = json.loads(
            run("devices", "invite", *at, "--uses", 2, "--out", invitation, "--json")
        )
        assert shown["token"] is None
        enrolled = run(
            "device", "enrol", "--server", server.url, "--token-file", invitation,
            "--state", device, "--json",
        )  # fmt: skip
        name = json.loads(enrolled)["device"]
        server.process.send_signal(signal.SIGKILL)  # a device stays enrolled
        server.process.wait()
    with serving(artifact, state, "--enrolment", "--port", server.url.rsplit(":", 1)[1], *WORDS):
        work = ("device", "--server", server.url, "--data", rows, "--state", device)
        assert "2 updates sent" in run(*work)
        assert "state     finished" in run("status", *at)
        run("heads", "list", *at)
        run("heads", "get", 2, *at, "--out", tmp_path / "heads.safetensors")
        run("heads", "rollback", 0, *at)
        assert name in run("devices", "list", *at)
        assert "1 of 2" in run("devices", "invitations", *at)
        assert name in run("devices", "revoke", name, *at)
        listed = json.loads(run("devices", "list", *at, "--json"))["devices"]
        assert [each["device"] for each in listed] == [name]
        assert listed[0]["revoked_at"]
        refused = ravan(capsys, *map(str, work))
        said.append(refused.err)
        assert refused.code == 6
        assert "shut out" in refused.err
    secrets = {
        "operator": (state / "operator.token").read_text().strip(),
        "invitation": invitation.read_text().strip(),
        "key": (device / "device.key").read_text().splitlines()[1],
    }
    log = server.log.read_text()
    assert "is shut out" in log
    for secret in secrets.values():
        assert len(secret) > 40
        assert secret not in log
        assert not any(secret in text for text in said)
    if os.name != "nt":
        for path in (state, device):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        for path in (state / "operator.token", invitation, device / "device.key"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_invitation_is_printed_where_no_file_is_named(
    operator: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    call = ravan(capsys, "devices", "invite", *operator)
    assert call.code == 0
    assert len(call.out.strip()) == 43
    assert call.out.strip() not in call.err


def test_the_token_can_come_from_the_environment(
    operator: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ravan(capsys, "status", *operator[:2]).code == 6
    monkeypatch.setenv("RAVAN_TOKEN_FILE", operator[3])
    assert ravan(capsys, "status", *operator[:2]).code == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["status"], 6, "only operators may ask this"),
        (["status", "--token-file", "nowhere"], 9, "cannot read the token"),
        (["status", "--token-file", "short"], 2, "this is no token"),
        (["status", "--token-file", "wrong"], 6, "not the token of this server's operators"),
        (["devices", "revoke", "0" * 32, "--token-file", "right"], 6, "no device"),
        (["devices", "revoke", "nonsense", "--token-file", "right"], 2, "is no device's id"),
        (["devices", "invite", "--uses", "0", "--token-file", "right"], 2, "--uses"),
        (["devices", "invite", "--note", "x" * 101, "--token-file", "right"], 2, "at most 100"),
        (["devices", "invite", "--out", "short", "--token-file", "right"], 2, "a file already"),
        (["device", "enrol", "--state", "folder"], 2, "--token-file"),
        (["device", "enrol", "--state", "folder", "--token-file", "short"], 2, "no token"),
        (["device", "enrol", "--state", "folder", "--token-file", "wrong"], 6, "no invitation"),
        (["device", "--state", "new", "--data", "rows"], 6, "ravan device enrol"),
        (["simulate"], 6, "only operators may ask this"),
    ],
)
def test_bad_input(
    running: Server,
    operator: list[str],
    artifact: Path,
    rows: Path,
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = {name: str(tmp_path / name) for name in ("nowhere", "short", "wrong", "folder", "new")}
    Path(files["short"]).write_text("short\n")
    Path(files["wrong"]).write_text("x" * 43)
    files |= {"right": operator[3], "rows": str(rows)}
    if words == ["simulate"]:
        words = ["simulate", str(artifact), "--train", str(rows), "--test", str(rows)]
        words += ["--out", str(tmp_path / "run"), "--per-round", "1", "--devices", "2"]
    call = ravan(capsys, *(files.get(word, word) for word in words), "--server", running.url)
    assert call.code == code, call.err
    assert message in call.err
    assert "Traceback" not in call.err


def test_a_file_that_holds_no_token_is_refused_at_the_start(artifact: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("not a token\n")
    call = serve(artifact, tmp_path / "state", "--enrolment", "--operator-token-file", token)
    assert call.code == 2
    assert str(token) in call.err
    call = serve(artifact, tmp_path / "state", "--enrolment", "--operator-token-file", "nowhere")
    assert call.code == 9
    assert "nowhere" in call.err
