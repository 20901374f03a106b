"""`ravan keys`, `sign`, and what `verify` and `inspect` say of signatures."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ravan_edge.artifact import open_artifact
from ravan_edge.signing import signature_of
from tests.cli.calls import Call, ravan
from tests.tiny_artifact import Method

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")
DAY = 86_400


@pytest.fixture
def artifact(tiny: dict[Method, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny["ravan"], tmp_path / "artifact"))


@pytest.fixture
def release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The name of a pair of keys: release.key, release.pub."""
    assert ravan(capsys, "keys", "create", "--out", tmp_path / "release").code == 0
    return tmp_path / "release.key"


def signed(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    call = ravan(capsys, "sign", *words, "--json")
    assert call.code == 0, call.err
    return dict(call.document)


def refused(call: Call, code: int, *says: str) -> None:
    assert call.code == code, call.err
    assert "Traceback" not in call.err
    for words in says:
        assert words in call.err


def at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(time, "time", lambda: seconds)


def test_keys_are_made_shown_and_never_overwritten(
    tmp_path: Path, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = ravan(capsys, "keys", "show", release.with_suffix(".pub"))
    assert ravan(capsys, "keys", "show", release).out == shown.out
    assert ravan(capsys, "keys", "show", release, "--json").document == {"key": shown.out.strip()}
    if os.name != "nt":
        assert stat.S_IMODE(release.stat().st_mode) == 0o600
    before = release.read_bytes(), release.with_suffix(".pub").read_bytes()
    for gone in (None, release, release.with_suffix(".pub")):
        content = None if gone is None else gone.read_bytes()
        if gone is not None:
            gone.unlink()
        call = ravan(capsys, "keys", "create", "--out", tmp_path / "release")
        refused(call, 2, "there is a file already")
        assert gone is None or not gone.exists(), "half a pair helps nobody"
        if gone is not None and content is not None:
            gone.write_bytes(content)
    assert before == (release.read_bytes(), release.with_suffix(".pub").read_bytes())
    refused(ravan(capsys, "keys", "create", "--out", tmp_path / "no" / "x"), 2, "no such folder")


def test_what_a_signature_says(
    artifact: Path, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = ravan(capsys, "keys", "show", release).out.strip()
    manifest = (artifact / "manifest.json").read_bytes()
    began = int(time.time())
    first = signed(capsys, artifact, "--key", release)
    assert began <= first["issued_at"] <= time.time()
    assert first["expires_at"] == first["issued_at"] + 365 * DAY
    assert first["artifact"] == hashlib.sha256(manifest).hexdigest()
    assert (first["key"], first["sequence"]) == (key, 1)
    assert first["file"] == str(artifact / "signature.json")
    assert (artifact / "manifest.json").read_bytes() == manifest
    found = signature_of(open_artifact(artifact))
    assert found is not None
    assert found.document() == {name: value for name, value in first.items() if name != "file"}


def test_numbers_go_on_within_a_name_and_a_key(
    artifact: Path, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [artifact, "--key", release]
    assert [signed(capsys, *words)["sequence"] for _ in range(3)] == [1, 2, 3]
    assert signed(capsys, *words, "--sequence", 9)["sequence"] == 9
    assert signed(capsys, *words, "--sequence", 9)["sequence"] == 9
    assert signed(capsys, *words)["sequence"] == 10
    refused(ravan(capsys, "sign", *words, "--sequence", 9), 2, "--sequence", "less than 10")
    named = signed(capsys, *words, "--name", "mails", "--days", 2)
    assert (named["sequence"], named["name"]) == (1, "mails")
    assert named["expires_at"] - named["issued_at"] == 2 * DAY
    ravan(capsys, "keys", "create", "--out", tmp_path / "other")
    other = signed(capsys, artifact, "--key", tmp_path / "other.key", "--name", "mails")
    assert other["sequence"] == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--name", "a b"], "--name"),
        (["--name", ""], "--name"),
        (["--name", "a\n"], "--name"),
        (["--name", "a" * 65], "--name"),
        (["--sequence", 0], "--sequence"),
        (["--sequence", 1 << 53], "--sequence"),
        (["--days", 0], "--days"),
        (["--days", 3651], "--days"),
    ],
)
def test_bad_options_write_nothing(
    artifact: Path,
    release: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[object],
    says: str,
) -> None:
    refused(ravan(capsys, "sign", artifact, "--key", release, *words), 2, says)
    assert not (artifact / "signature.json").exists()


def test_only_what_a_reader_takes_is_signed(
    artifact: Path, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(ravan(capsys, "sign", tmp_path / "nowhere", "--key", release), 3, "no such folder")
    refused(ravan(capsys, "sign", artifact, "--key", tmp_path / "nokey"), 2, "no such file")
    refused(ravan(capsys, "sign", artifact, "--key", release.with_suffix(".pub")), 2, "private key")
    base = bytearray((artifact / "base.safetensors").read_bytes())
    base[-1] ^= 1
    (artifact / "base.safetensors").write_bytes(base)
    refused(ravan(capsys, "sign", artifact, "--key", release), 3, "sha256")
    assert not (artifact / "signature.json").exists()


def test_a_damaged_signature_is_not_replaced_unseen(
    artifact: Path, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signed(capsys, artifact, "--key", release)
    (artifact / "signature.json").write_bytes(b"{}")
    refused(ravan(capsys, "sign", artifact, "--key", release), 3, "its number is not known")
    assert (artifact / "signature.json").read_bytes() == b"{}"


def test_verify_and_inspect_say_whether_it_is_signed(
    artifact: Path, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Signature: none" in ravan(capsys, "inspect", artifact).out
    assert "signature: none" in ravan(capsys, "verify", artifact).out
    for command in ("inspect", "verify"):
        assert ravan(capsys, command, artifact, "--json").document["signature"] is None
    said = signed(capsys, artifact, "--key", release, "--name", "mails")
    del said["file"]
    for command in ("inspect", "verify"):
        assert ravan(capsys, command, artifact, "--json").document["signature"] == said
        text = " ".join(ravan(capsys, command, artifact).out.split())
        assert f"'mails', number 1, by key {said['key']}" in text
        assert "EXPIRED" not in text


def test_verify_refuses_what_a_device_would(
    artifact: Path,
    release: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["verify", artifact, "--trust", release.with_suffix(".pub")]
    key = ravan(capsys, "keys", "show", release).out.strip()
    refused(ravan(capsys, *words), 3, "not signed", key, "ravan sign")
    ends = signed(capsys, artifact, "--key", release, "--days", 1)["expires_at"]
    assert ravan(capsys, *words).code == 0
    at(monkeypatch, ends - 0.5)
    assert ravan(capsys, *words).code == 0
    at(monkeypatch, ends)
    refused(ravan(capsys, *words), 3, "counts no more since", key)
    assert "EXPIRED" in ravan(capsys, "inspect", artifact).out
    assert "EXPIRED" in ravan(capsys, "verify", artifact).out
    monkeypatch.undo()
    ravan(capsys, "keys", "create", "--out", tmp_path / "other")
    other = ravan(capsys, "keys", "show", tmp_path / "other.pub").out.strip()
    call = ravan(capsys, "verify", artifact, "--trust", tmp_path / "other.pub")
    refused(call, 3, f"signed by key {key}, trusted is {other}")
    refused(ravan(capsys, "verify", artifact, "--trust", release), 2, "no public key")


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_signature_of_another_artifact_is_refused(
    artifact: Path,
    tiny: dict[Method, Path],
    release: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    other = Path(shutil.copytree(tiny["fedit"], tmp_path / "other"))
    signed(capsys, other, "--key", release, "--sequence", 4)
    shutil.copy(other / "signature.json", artifact)
    refused(ravan(capsys, command, artifact), 3, "is of artifact", "signature.json")
    # Signed again, numbers go on from it: it is of the same key and name.
    assert signed(capsys, artifact, "--key", release)["sequence"] == 5
    assert ravan(capsys, command, artifact).code == 0


def test_other_commands_read_no_signature_and_none_is_listed(
    artifact: Path, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = open_artifact(artifact).digest
    signed(capsys, artifact, "--key", release)
    opened = open_artifact(artifact)
    assert opened.digest == before
    assert "signature.json" not in opened.manifest.files


@needs_openssl
def test_keys_of_openssl_sign_and_an_encrypted_one_needs_a_terminal(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def openssl(*words: object) -> None:
        assert OPENSSL is not None
        subprocess.run([OPENSSL, *map(str, words)], check=True, capture_output=True)

    plain, locked, public = (tmp_path / name for name in ("plain", "locked", "public"))
    openssl("genpkey", "-algorithm", "ed25519", "-out", plain)
    openssl("pkey", "-in", plain, "-pubout", "-out", public)
    openssl("pkey", "-in", plain, "-aes256", "-passout", "pass:sesame", "-out", locked)
    signed(capsys, artifact, "--key", plain)
    assert ravan(capsys, "verify", artifact, "--trust", public).code == 0
    refused(ravan(capsys, "sign", artifact, "--key", locked), 2, "encrypted", "openssl pkey")
    refused(ravan(capsys, "keys", "show", locked), 2, "encrypted")


@needs_openssl
def test_a_password_is_asked_for_on_a_terminal(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    assert OPENSSL is not None
    locked = tmp_path / "locked"
    words = ["genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:sesame", "-out", locked]
    subprocess.run([OPENSSL, *map(str, words)], check=True, capture_output=True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    answers = ["wrong", "sesame"]
    monkeypatch.setattr("typer.prompt", lambda *_, **__: answers.pop(0))
    refused(ravan(capsys, "sign", artifact, "--key", locked), 2, "no private key can be read")
    call = ravan(capsys, "sign", artifact, "--key", locked, "--json")
    assert call.code == 0
    assert json.loads(call.out)["sequence"] == 1
    assert "sesame" not in call.out + call.err
