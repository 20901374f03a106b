"""`ravan serve` where other machines can reach it, and the commands that talk to it there."""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.cli.calls import ravan
from tests.cli.servers import serve, serving
from tests.tiny_artifact import Method, tiny_rows

WORDS = ("--goal", 1, "--over-selection", 1, "--rounds", 2, "--local-steps", 2)


@dataclass(frozen=True)
class Certificates:
    """An authority of one's own, and what it has signed."""

    ca: Path
    chain: Path

    @property
    def words(self) -> tuple[object, ...]:
        return ("--tls-certificate", self.chain, "--tls-key", self.chain)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    made = Certificates(tmp_path / "ca.pem", tmp_path / "chain.pem")
    authority.cert_pem.write_to_path(made.ca)
    issued.private_key_and_cert_chain_pem.write_to_path(made.chain)
    return made


@pytest.fixture
def artifact(tiny: dict[Method, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A signed one."""
    folder = tmp_path / "artifact"
    shutil.copytree(tiny["ravan"], folder)
    assert ravan(capsys, "keys", "create", "--out", tmp_path / "release").code == 0
    assert ravan(capsys, "sign", folder, "--key", tmp_path / "release.key").code == 0
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *tiny_rows(40, seed=3)])
    return path


@pytest.mark.parametrize("host", [pytest.param("127.0.0.1", marks=pytest.mark.slow), "0.0.0.0"])
def test_a_whole_run_over_tls(
    artifact: Path,
    certificates: Certificates,
    rows: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    host: str,
) -> None:
    state, invitation = tmp_path / "state", tmp_path / "invitation"
    with serving(artifact, state, "--host", host, *certificates.words, *WORDS) as server:
        url = f"https://127.0.0.1:{server.url.rpartition(':')[2]}"
        assert server.url == url.replace("127.0.0.1", host)
        at = ("--server", url, "--ca", certificates.ca)
        operator = (*at, "--token-file", state / "operator.token")
        assert ravan(capsys, "devices", "invite", *operator, "--out", invitation).code == 0
        device = (*at, "--state", tmp_path / "device")
        assert ravan(capsys, "device", "enrol", *device, "--token-file", invitation).code == 0
        trusted = ("--trust", tmp_path / "release.pub")
        call = ravan(capsys, "device", *device, "--data", rows, *trusted)
        assert "2 updates sent" in call.out, call.err
        assert ravan(capsys, "status", *operator, "--json").document["version"] == 2
        assert "2 updates" not in ravan(capsys, "heads", "list", *operator).err
        out = tmp_path / "heads.safetensors"
        assert ravan(capsys, "heads", "get", 2, *operator, "--out", out).code == 0
        assert ravan(capsys, "heads", "rollback", 0, *operator).code == 0
        unknown = ravan(capsys, "status", "--server", url)
        assert (unknown.code, "--ca FILE" in unknown.err) == (9, True)
        assert ravan(capsys, "status", *at).code == 6
        plain = ravan(capsys, "status", "--server", url.replace("https", "http"))
        assert plain.code == 9
        assert "Traceback" not in plain.err + server.log.read_text()


def test_behind_a_proxy_there_is_a_login_too(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(artifact, tmp_path / "state", "--behind-proxy", *WORDS) as server:
        assert ravan(capsys, "status", "--server", server.url).code == 6
        token = ("--token-file", tmp_path / "state" / "operator.token")
        assert ravan(capsys, "status", "--server", server.url, *token).code == 0


@pytest.mark.parametrize("words", [("--behind-proxy",), ("--host", "0.0.0.0", "--behind-proxy")])
def test_other_machines_need_a_signed_artifact(
    tiny: dict[Method, Path], tmp_path: Path, words: tuple[str, ...]
) -> None:
    call = serve(tiny["ravan"], tmp_path / "state", *words)
    assert call.code == 3
    assert "ravan sign" in call.err
    assert not (tmp_path / "state").exists()


def test_files_of_tls_that_are_none(
    artifact: Path, certificates: Certificates, tmp_path: Path
) -> None:
    state = tmp_path / "other"
    call = serve(artifact, state, "--tls-certificate", certificates.chain)
    assert (call.code, "--tls-key" in call.err) == (2, True)
    nowhere = ("--tls-key", tmp_path / "nowhere")
    call = serve(artifact, state, "--tls-certificate", certificates.chain, *nowhere)
    assert (call.code, "nowhere" in call.err) == (9, True)
    call = serve(
        artifact, state, "--tls-certificate", certificates.ca, "--tls-key", certificates.ca
    )
    assert call.code == 2
    assert os.fspath(certificates.ca) in call.err
    assert "Traceback" not in call.err
    assert not state.exists()
