"""TLS: the server's files, and what a client makes of them."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trustme

from ravan_edge.device import ServerConnection
from ravan_edge.errors import NetworkError, StorageError, UsageError
from ravan_server.http.connection import ConnectionLimits
from ravan_server.http.server import http_server
from ravan_server.http.tls import tls_context
from ravan_server.settings import ServerSettings
from tests.server.conftest import Served
from tests.server.devices import offered, update_of
from tests.server.server_kit import wait_until


@dataclass(frozen=True)
class Files:
    """Of an authority, and of a server that it signed."""

    authority: Path
    certificate: Path
    key: Path

    @property
    def settings(self) -> ServerSettings:
        return ServerSettings(tls_certificate=str(self.certificate), tls_key=str(self.key))


def make_files(folder: Path, *names: str) -> Files:
    folder.mkdir()
    authority = trustme.CA()
    issued = authority.issue_cert(*names)
    found = Files(folder / "ca.pem", folder / "chain.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(found.authority)
    issued.private_key_pem.write_to_path(found.key)
    for pem in issued.cert_chain_pems:
        pem.write_to_path(found.certificate, append=True)
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("tls") / "files", "127.0.0.1")


@pytest.fixture
def address(served: Served, files: Files) -> Iterator[tuple[str, int]]:
    limits = ConnectionLimits(handshake_seconds=0.5, sweep_seconds=0.05)
    with listening_with(served, files, limits) as found:
        yield found


def test_an_update_through_tls(served: Served, files: Files, address: tuple[str, int]) -> None:
    offer = offered(served.client)
    body = update_of(served.artifact, offer)
    with ServerConnection(f"https://127.0.0.1:{address[1]}", ca=files.authority) as server:
        assert server.status().training == 1
        assert server.upload(offer.task, body).status == "accepted"


def test_a_certificate_that_nobody_trusts_names_the_option(address: tuple[str, int]) -> None:
    with (
        ServerConnection(f"https://127.0.0.1:{address[1]}") as server,
        pytest.raises(NetworkError, match=r"not trusted.*--ca FILE") as caught,
    ):
        server.status()
    assert caught.value.exit_code == 9


def test_another_authority_and_another_name_are_not_trusted(
    tmp_path: Path, files: Files, address: tuple[str, int]
) -> None:
    other = make_files(tmp_path / "other", "127.0.0.1")
    for url, authority in (
        (f"https://127.0.0.1:{address[1]}", other.authority),
        (f"https://localhost:{address[1]}", files.authority),
    ):
        with (
            ServerConnection(url, ca=authority) as server,
            pytest.raises(NetworkError, match="not trusted"),
        ):
            server.status()


def test_http_to_a_server_with_tls_is_no_answer(address: tuple[str, int]) -> None:
    with (
        ServerConnection(f"http://127.0.0.1:{address[1]}") as server,
        pytest.raises(NetworkError),
    ):
        server.status()


def test_who_does_not_shake_hands_is_cut(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=60) as connection:
        assert connection.recv(1) == b""


@contextmanager
def listening_with(
    served: Served, files: Files, limits: ConnectionLimits
) -> Iterator[tuple[str, int]]:
    listening = socket.create_server(("127.0.0.1", 0), backlog=200)
    server = http_server(served.app, limits, tls_context(files.settings))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield listening.getsockname()
    finally:
        server.should_exit = True
        thread.join()


def is_cut(connection: socket.socket) -> bool:
    """Whether the server ended it by now."""
    connection.settimeout(0)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize("limit", ["connections", "per_address"])
def test_handshakes_that_never_end_are_bounded_by_number(
    served: Served, files: Files, limit: str
) -> None:
    """They take places of connections: not more than so many, and none that is open already."""
    most = 10
    limits = replace(ConnectionLimits(handshake_seconds=3, sweep_seconds=0.05), **{limit: most})
    with ExitStack() as stack:
        address = stack.enter_context(listening_with(served, files, limits))
        url = f"https://127.0.0.1:{address[1]}"
        early = stack.enter_context(ServerConnection(url, ca=files.authority))
        assert early.status().version == 0  # it is open from now on
        began = time.monotonic()
        stalled = [
            stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(60)
        ]
        for each in stalled[::2]:
            each.send(b"\x16\x03\x01")  # a handshake that begins
        wait_until(lambda: sum(map(is_cut, stalled)) >= 60 - most + 1, 2)
        assert sum(map(is_cut, stalled)) == 60 - most + 1
        assert early.status().version == 0
        # Once their time is over there is room again, and all of them are cut.
        wait_until(lambda: all(map(is_cut, stalled)), 30)
        assert time.monotonic() - began > 2
        with ServerConnection(url, ca=files.authority) as late:
            assert late.status().version == 0


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files")
def test_handshakes_that_fail_leave_no_file_open(files: Files, address: tuple[str, int]) -> None:
    def mine() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def status() -> None:
        with ServerConnection(f"https://127.0.0.1:{address[1]}", ca=files.authority) as server:
            assert server.status().version == 0

    status()
    before = mine()
    for content in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"):
        for _ in range(30):
            with socket.create_connection(address, timeout=60) as connection:
                connection.send(content)
    wait_until(lambda: mine() <= before, 30)
    status()


def test_the_server_ends_while_handshakes_are_going_on(served: Served, files: Files) -> None:
    limits = ConnectionLimits(handshake_seconds=60)
    with ExitStack() as stack:
        began = time.monotonic()
        with listening_with(served, files, limits) as address:
            stalled = [
                stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(5)
            ]
            with ServerConnection(f"https://127.0.0.1:{address[1]}", ca=files.authority) as server:
                assert server.status().version == 0
        assert time.monotonic() - began < 20
        wait_until(lambda: all(map(is_cut, stalled)), 10)


def test_old_versions_are_not_spoken(files: Files, address: tuple[str, int]) -> None:
    context = ssl.create_default_context(cafile=files.authority)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with (
        socket.create_connection(address, timeout=60) as connection,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(connection, server_hostname="127.0.0.1")


def test_both_files_or_none(files: Files) -> None:
    assert tls_context(ServerSettings()) is None
    with pytest.raises(UsageError, match="--tls-key"):
        ServerSettings(tls_certificate=str(files.certificate))
    with pytest.raises(UsageError, match="--tls-certificate"):
        ServerSettings(tls_key=str(files.key))


def test_files_that_are_no_certificate(tmp_path: Path, files: Files) -> None:
    other = make_files(tmp_path / "other", "127.0.0.1")
    text = tmp_path / "text"
    text.write_text("hello")
    for certificate, key, found in (
        (files.certificate, other.key, "not the one of the certificate"),
        (text, files.key, "no certificate"),
        (files.certificate, text, "no certificate"),
        (files.certificate, files.certificate, "no certificate"),
    ):
        settings = ServerSettings(tls_certificate=str(certificate), tls_key=str(key))
        with pytest.raises(UsageError, match=found) as caught:
            tls_context(settings)
        assert str(key) in str(caught.value)
        assert "PEM" in str(caught.value)
    with pytest.raises(StorageError, match="nowhere"):
        tls_context(
            ServerSettings(tls_certificate=str(tmp_path / "nowhere"), tls_key=str(files.key))
        )


def test_an_authority_that_is_none(tmp_path: Path) -> None:
    text = tmp_path / "text"
    for content in (b"hello", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n"):
        text.write_bytes(content)
        with pytest.raises(UsageError, match=r"--ca .*text.*no certificate"):
            ServerConnection("https://server.test", ca=text)
    with pytest.raises(StorageError, match="nowhere"):
        ServerConnection("https://server.test", ca=tmp_path / "nowhere")
