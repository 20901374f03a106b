"""`ravan serve` of signed artifacts and `ravan device`, as processes; killed in the worst moment."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from ravan_edge.artifact import open_artifact
from tests.cli.calls import Call, ravan
from tests.cli.servers import RAVAN, serve, serving
from tests.server.server_kit import wait_until
from tests.tiny_artifact import make_tiny_artifact, tiny_rows

WORDS = ["--goal", 1, "--over-selection", 1, "--rounds", 9, "--local-steps", 2]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *tiny_rows(40, seed=3)])
    return path


@pytest.fixture
def release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert ravan(capsys, "keys", "create", "--out", tmp_path / "release").code == 0
    return tmp_path / "release.key"


def signed(
    capsys: pytest.CaptureFixture[str], folder: Path, seed: int, key: Path, sequence: int
) -> Path:
    make_tiny_artifact(folder, seed=seed)
    words = ["--key", key, "--name", "mails", "--sequence", sequence, "--days", 3]
    assert ravan(capsys, "sign", folder, *words).code == 0
    return folder


def device_words(url: str, rows: Path, state: Path, *words: object) -> list[str]:
    return [
        *("device", "--server", url, "--data", str(rows), "--state", str(state)),
        *("--tasks", "1", *map(str, words)),
    ]


def device(url: str, rows: Path, state: Path, *words: object) -> Call:
    command = [*RAVAN, *device_words(url, rows, state, *words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return Call(done.returncode, done.stdout, done.stderr)


def test_killed_when_it_has_seen_the_new_one_it_does_not_go_back(
    tmp_path: Path, rows: Path, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = signed(capsys, tmp_path / "old", 0, release, 7)
    new = signed(capsys, tmp_path / "new", 1, release, 8)
    state, trust = tmp_path / "device", release.with_suffix(".pub")
    with serving(old, tmp_path / "old-state", *WORDS) as server:
        assert "1 updates sent" in device(server.url, rows, state, "--trust", trust).out
    with serving(new, tmp_path / "new-state", *WORDS) as server:
        process = subprocess.Popen(
            [*RAVAN, *device_words(server.url, rows, state)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def seen() -> bool:
            memory = json.loads((state / "trust.json").read_bytes())
            numbers = memory["seen"][memory["key"]]["mails"]
            return bool(numbers["sequence"] == 8)

        try:
            wait_until(seen)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        with serving(old, tmp_path / "old-state", *WORDS) as older:
            refused = device(older.url, rows, state)
        assert refused.code == 3, refused.err
        assert "is number 7 of 'mails'" in refused.err
        assert "has had number 8: it never goes back" in refused.err
        assert "Traceback" not in refused.err
        goes_on = device(server.url, rows, state)
        assert goes_on.code == 0, goes_on.err
        assert "1 updates sent" in goes_on.out


def test_a_device_says_why_it_trains_nothing_and_the_server_why_it_serves_nothing(
    tmp_path: Path, rows: Path, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = signed(capsys, tmp_path / "artifact", 0, release, 1)
    ravan(capsys, "keys", "create", "--out", tmp_path / "other")
    ids = [
        ravan(capsys, "keys", "show", path).out.strip()
        for path in (release, tmp_path / "other.pub")
    ]
    state = tmp_path / "device"
    with serving(artifact, tmp_path / "state", *WORDS) as server:
        refused = device(server.url, rows, state, "--trust", tmp_path / "other.pub")
        assert refused.code == 3
        assert f"artifact {open_artifact(artifact).digest}: " in refused.err
        assert f"is signed by key {ids[0]}, trusted is {ids[1]}" in refused.err
        assert "Traceback" not in refused.err
        assert not any((state / "artifacts").iterdir())
        shown = json.loads(ravan(capsys, "status", "--server", server.url, "--json").out)
        assert shown["training"] == 0
        wrong = device(server.url, rows, state, "--trust", release)
        assert wrong.code == 2
        assert "no public key can be read" in wrong.err
    shutil.copy(signed(capsys, tmp_path / "third", 2, release, 2) / "signature.json", artifact)
    ended = serve(artifact, tmp_path / "state")
    assert ended.code == 3
    assert "signature.json: the signature is of artifact" in ended.err
