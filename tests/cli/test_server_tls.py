"""`ravan serve` with a certificate, and the commands that talk to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from tests.cli.calls import ravan
from tests.cli.test_server_commands import serving
from tests.tiny_artifact import Method


@pytest.fixture
def artifact(tiny: dict[Method, Path]) -> Path:
    return tiny["ravan"]


def test_a_server_with_tls(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    ca, chain = tmp_path / "ca.pem", tmp_path / "chain.pem"
    authority.cert_pem.write_to_path(ca)
    issued.private_key_and_cert_chain_pem.write_to_path(chain)
    tls = ("--tls-certificate", chain, "--tls-key", chain)
    with serving(artifact, tmp_path / "state", *tls) as server:
        assert server.url.startswith("https://127.0.0.1:")
        at = ("--server", server.url)
        call = ravan(capsys, "status", *at, "--ca", ca, "--json")
        assert call.document["version"] == 0
        assert "artifact" in ravan(capsys, "heads", "list", *at, "--ca", ca).out
        out = tmp_path / "heads.safetensors"
        assert ravan(capsys, "heads", "get", 0, *at, "--ca", ca, "--out", out).code == 0
        assert ravan(capsys, "heads", "rollback", 0, *at, "--ca", ca).code == 0
        call = ravan(capsys, "status", *at)
        assert call.code == 9
        assert "--ca FILE" in call.err
    words = ("serve", artifact, "--state", tmp_path / "other")
    call = ravan(capsys, *words, "--tls-certificate", chain)
    assert (call.code, "--tls-key" in call.err) == (2, True)
    call = ravan(capsys, *words, "--tls-certificate", chain, "--tls-key", tmp_path / "nowhere")
    assert (call.code, "nowhere" in call.err) == (9, True)
    assert not (tmp_path / "other").exists()
