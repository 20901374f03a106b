"""Rounds on a server with a login and TLS: each simulated device enrols, and the bits stay the same."""

from __future__ import annotations

import socket
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from ravan_edge.artifact import open_artifact
from ravan_edge.errors import NetworkError, ServerRefusedError, UsageError
from ravan_edge.simulate import SimulationRequest, simulate
from ravan_server.app import create_app
from ravan_server.http.connection import ConnectionLimits
from ravan_server.http.server import http_server
from ravan_server.http.tls import tls_context
from ravan_server.settings import RoundSettings, ServerSettings
from tests.server.login_kit import OPERATOR
from tests.server.server_kit import opened_server
from tests.simulate.conftest import RequestFor
from tests.simulate.server_runs import RealClock, killed, login_of, run, same, server_for


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "operator.token"
    path.write_text(f"{OPERATOR}\n")
    return path


def keys(out: Path) -> dict[str, bytes]:
    """The devices' keys by the name of their folder."""
    found = {path.parent.name: path.read_bytes() for path in out.glob("devices/*/device.key")}
    if sys.platform != "win32":
        for path in out.glob("devices/*/device.key"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return found


def test_a_server_with_a_login_makes_the_same_bits(
    request_for: RequestFor, tmp_path: Path, token: Path
) -> None:
    here = request_for("here", partition="dirichlet:0.3")
    expected = run(here)
    there = replace(here, out=tmp_path / "there", token_file=token)
    with server_for(there, tmp_path / "state", RealClock(), login=True) as (server, there):
        assert run(there) == expected
        enrolled = server.members.devices(0).devices
        invitations = server.members.invitations().invitations
    same(there.out, here.out)
    assert len(keys(there.out)) == len(set(keys(there.out).values())) == len(enrolled) >= 3
    assert [(each.note, each.used) for each in invitations] == [("ravan simulate", len(enrolled))]
    # The operators' token is in no file of the run.
    for path in there.out.rglob("*"):
        assert not path.is_file() or OPERATOR.encode() not in path.read_bytes(), path


def test_a_resumed_run_keeps_its_keys(
    request_for: RequestFor, tmp_path: Path, token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = request_for("here", devices=3, per_round=3)
    expected = run(here)
    there = replace(here, out=tmp_path / "there", token_file=token)
    with server_for(there, tmp_path / "state", RealClock(), login=True) as (_, first):
        killed(monkeypatch, first, round=2)
    before = keys(there.out)
    assert len(before) == 3
    # The server comes back at another port, as another process.
    with server_for(there, tmp_path / "state", RealClock(), login=True) as (server, second):
        assert run(second).items() <= expected.items()
        assert len(server.members.devices(0).devices) == 3
    assert keys(there.out) == before
    same(there.out, here.out)


def test_a_server_without_a_login_needs_no_key(
    request_for: RequestFor, tmp_path: Path, token: Path
) -> None:
    there = replace(request_for("there", rounds=1), token_file=token)
    with server_for(there, tmp_path / "state", RealClock()) as (_, there):
        run(there)
    assert keys(there.out) == {}


def test_without_the_token_or_with_another_it_is_refused_before_any_work(
    request_for: RequestFor, tmp_path: Path, token: Path
) -> None:
    with server_for(request_for("there"), tmp_path / "state", RealClock(), login=True) as (
        _,
        there,
    ):
        with pytest.raises(ServerRefusedError, match="--token-file"):
            simulate(there, workers=1)
        token.write_text("another-token-0123456789-0123456789")
        with pytest.raises(ServerRefusedError, match="not the token"):
            simulate(replace(there, token_file=token), workers=1)
        token.write_text("no token")
        with pytest.raises(UsageError, match="no token"):
            simulate(replace(there, token_file=token), workers=1)
    assert not there.out.exists()


@contextmanager
def with_tls(request: SimulationRequest, folder: Path) -> Iterator[SimulationRequest]:
    """A server with TLS and a login for a request; the request on it, which trusts its authority."""
    folder.mkdir()
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    ca, chain, key = folder / "ca.pem", folder / "chain.pem", folder / "key.pem"
    authority.cert_pem.write_to_path(ca)
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(chain)
    asked = request.settings
    rounds = RoundSettings(local=asked.local, goal=asked.per_round, over_selection=1)
    settings = ServerSettings(
        rounds=asked.rounds, seed=asked.seed, tls_certificate=str(chain), tls_key=str(key)
    )
    artifact = open_artifact(request.artifact)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        opened_server(artifact, folder / "state", RealClock(), rounds, settings) as server,
    ):
        app = create_app(server, login=login_of(server))
        http = http_server(app, ConnectionLimits(), tls_context(settings))
        thread = threading.Thread(target=http.run, args=([listening],))
        thread.start()
        try:
            port = listening.getsockname()[1]
            yield replace(request, server=f"https://127.0.0.1:{port}", ca=ca)
        finally:
            http.should_exit = True
            thread.join()


def test_through_tls_with_an_authority_of_one_s_own(
    request_for: RequestFor, tmp_path: Path, token: Path
) -> None:
    here = request_for("here", rounds=2)
    expected = run(here)
    there = replace(here, out=tmp_path / "there", token_file=token)
    with with_tls(there, tmp_path / "tls") as there:
        with pytest.raises(NetworkError, match="--ca FILE"):
            simulate(replace(there, ca=None), workers=1)
        assert run(there) == expected
    assert (there.out / "heads" / "last.safetensors").read_bytes() == (
        here.out / "heads" / "last.safetensors"
    ).read_bytes()


def test_the_command_repeats_the_run(request_for: RequestFor) -> None:
    request = replace(
        request_for(), server="https://example.org", ca=Path("ca.pem"), token_file=Path("token")
    )
    assert "--server https://example.org --ca ca.pem --token-file token" in request.command()
