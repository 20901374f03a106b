"""What a network can do to connections, over real sockets, with limits that a test can wait for."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import pytest

from ravan_edge.protocol import KINDS, Problem, Reason
from ravan_server.app import create_app
from ravan_server.http.connection import ConnectionLimits
from ravan_server.http.server import http_server
from tests.server.conftest import Serve, Served
from tests.server.devices import message, offered, path_of, update_of

QUICK = ConnectionLimits(
    connections=50,
    per_address=40,
    head_seconds=0.8,
    body_seconds=0.8,
    body_bytes=100,
    idle_seconds=0.8,
    unread_seconds=0.8,
    sweep_seconds=0.05,
)
STATUS = b"GET /healthz HTTP/1.1\r\nhost: server\r\n\r\n"
LONG = 60.0  # only a test that fails waits for it


@dataclass(frozen=True)
class Server:
    """One that listens."""

    address: tuple[str, int]
    served: Served

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=LONG)

    def says(self, content: bytes) -> bytes:
        """Everything that comes back until the server ends the connection."""
        with self.connect() as connection:
            connection.sendall(content)
            return rest(connection)


@contextmanager
def running(served: Served, limits: ConnectionLimits, uploads_bytes: int) -> Iterator[Server]:
    listening = socket.create_server(("127.0.0.1", 0), backlog=1000)
    server = http_server(create_app(served.coordinator, uploads_bytes), limits)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield Server(listening.getsockname(), served)
    finally:
        server.should_exit = True
        thread.join()


Start = Callable[..., Server]


@pytest.fixture
def start(serve: Serve) -> Iterator[Start]:
    """``start(limits)``: a server with these limits, until the test ends."""
    with ExitStack() as stack:

        def started(limits: ConnectionLimits = QUICK, uploads_bytes: int = 1 << 20) -> Server:
            return stack.enter_context(running(serve(goal=1000), limits, uploads_bytes))

        yield started


def rest(connection: socket.socket) -> bytes:
    found = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            found += piece
    return bytes(found)


def problem(answer: bytes) -> Problem:
    """An answer that is a problem, alone, and ends the connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    found = Problem.model_validate_json(body)
    assert lines[0].startswith(f"http/1.1 {KINDS[found.reason].status} ")
    assert {"content-type: application/problem+json", "connection: close"} <= set(lines)
    assert f"content-length: {len(body)}" in lines
    return found


def refused(answer: bytes) -> Reason:
    return problem(answer).reason


def one(connection: socket.socket) -> bytes:
    """The next answer of a connection that stays."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += connection.recv(1)
    length = int(found.lower().split(b"content-length: ")[1].split(b"\r")[0])
    while length:
        piece = connection.recv(length)
        found += piece
        length -= len(piece)
    return found


# Heads


@pytest.mark.parametrize(
    "content",
    [
        b"GET /" + b"a" * 16_400 + b" HTTP/1.1\r\nhost: server\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: server\r\nx: " + b"a" * 16_400 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: server\r\n" + b"a" * 40_000,  # no end in sight
        b"GET / HTTP/1.1\r\nhost: server\r\nx: " + b" " * 40_000,
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 65 + b"\r\n",
        b"\r\n" * 20_000,
    ],
)
def test_a_head_has_an_end(start: Start, content: bytes) -> None:
    assert refused(start(ConnectionLimits()).says(content)) is Reason.HEAD_TOO_LARGE


def test_a_head_behind_another_request_ends_the_connection_too(start: Start) -> None:
    """What is answered to whom would be unclear, so nothing is said."""
    content = STATUS + b"GET / HTTP/1.1\r\nx: " + b"a" * 40_000
    assert b"head_too_large" not in start(ConnectionLimits()).says(content)


def test_a_head_that_comes_byte_by_byte_has_the_same_end(start: Start) -> None:
    server = start(ConnectionLimits(head_bytes=300))
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"GET / HTTP/1.1\r\nhost: server\r\nx: ")
        with contextlib.suppress(OSError):
            for _ in range(700):
                connection.sendall(b"a")
        assert refused(rest(connection)) is Reason.HEAD_TOO_LARGE


def test_the_largest_head_is_served(start: Start) -> None:
    server = start(ConnectionLimits())
    lines = b"".join(b"x%02d: y\r\n" % number for number in range(62))
    head = b"GET /healthz HTTP/1.1\r\nhost: server\r\n" + lines + b"y: "
    head += b"a" * (16_384 - len(head) - 4) + b"\r\n\r\n"
    assert len(head) == 16_384
    with server.connect() as connection:
        for content in (head, head, STATUS):
            connection.sendall(content)
            assert one(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"G", STATUS[:-2], STATUS[:20]])
def test_a_head_that_does_not_end_in_time(start: Start, sent: bytes) -> None:
    assert refused(start().says(sent)) is Reason.TOO_SLOW


def test_a_head_that_trickles_is_not_given_more_time(start: Start) -> None:
    with start().connect() as connection:
        connection.settimeout(0.05)
        answer = b""
        for number in range(10_000):
            with contextlib.suppress(OSError):
                connection.sendall(STATUS[:-4] + b"\r\nx: " if not number else b"a")
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(65_536)
                break
        assert refused(answer) is Reason.TOO_SLOW


def test_who_says_nothing_is_not_waited_for(start: Start) -> None:
    server = start()
    assert server.says(b"") == b""
    with server.connect() as connection:
        connection.sendall(STATUS)
        assert one(connection).startswith(b"HTTP/1.1 200 ")
        assert rest(connection) == b""  # the time between two requests is over


def test_the_second_head_has_its_own_time(start: Start) -> None:
    with start().connect() as connection:
        for _ in range(2):
            connection.sendall(STATUS)
            one(connection)
        connection.sendall(STATUS[:-2])
        assert refused(rest(connection)) is Reason.TOO_SLOW


# Bodies


def head_of(path: str, length: int, method: str = "PUT", more: str = "") -> bytes:
    lines = f"{method} {path} HTTP/1.1\r\nhost: server\r\n{more}content-length: {length}\r\n"
    return f"{lines}content-type: application/json\r\n\r\n".encode()


def test_an_upload_that_stalls_gives_its_memory_back(start: Start) -> None:
    server = start(uploads_bytes=1)  # enough for one, that is
    first, second = offered(server.served.client), offered(server.served.client, 1)
    body = update_of(server.served.artifact, first)
    other = update_of(server.served.artifact, second)
    with server.connect() as stalled:
        stalled.sendall(head_of(path_of(first), len(body)) + body[:-1])
        found = b""
        while not found:  # until it holds the memory
            with server.connect() as probe, contextlib.suppress(TimeoutError):
                probe.sendall(head_of(path_of(second), len(other)) + other[:-1])
                probe.settimeout(0.1)
                found = probe.recv(65_536)
        assert refused(found) is Reason.BUSY
        assert refused(rest(stalled)) is Reason.TOO_SLOW
    head = head_of(path_of(second), len(other), more="connection: close\r\n")
    for _ in range(1000):
        answer = server.says(head + other)
        if answer.startswith(b"HTTP/1.1 200 "):
            break
        assert refused(answer) is Reason.BUSY
        time.sleep(0.01)
    assert server.served.status.accepted == 1


def test_a_message_that_stalls(start: Start) -> None:
    sent = head_of("/v1/check-in", 60_000, "POST") + b"{" * 10
    assert refused(start().says(sent)) is Reason.TOO_SLOW


def test_a_body_that_keeps_the_pace_may_take_its_time(start: Start) -> None:
    server = start(replace(QUICK, body_seconds=1.0, body_bytes=1))
    body = json.dumps(message()).encode().ljust(250)
    with server.connect() as connection:
        connection.sendall(head_of("/v1/check-in", len(body), "POST"))
        for begin in range(0, len(body), 10):  # for longer than two looks at it
            connection.sendall(body[begin : begin + 10])
            time.sleep(0.1)
        assert b'"answer":"task"' in one(connection)


def test_a_body_in_chunks_is_refused_before_it_comes(start: Start) -> None:
    head = b"POST /v1/check-in HTTP/1.1\r\nhost: server\r\ntransfer-encoding: chunked\r\n\r\n"
    assert refused(start().says(head + b"1\r\n{\r\n")) is Reason.LENGTH_REQUIRED


# Answers


def test_who_does_not_read_is_cut(start: Start) -> None:
    server = start()
    base = server.served.artifact.manifest.files["base.safetensors"].sha256
    ask = f"GET /v1/blobs/{base} HTTP/1.1\r\nhost: server\r\n\r\n".encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(LONG)
        connection.connect(server.address)
        with contextlib.suppress(ConnectionError):  # it ends here, once nothing more fits
            while True:
                connection.sendall(ask)
    assert server.says(STATUS.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))


# Numbers


def test_one_connection_too_many_is_told_so(start: Start) -> None:
    server = start(ConnectionLimits(connections=3))
    with ExitStack() as stack:
        held = [stack.enter_context(server.connect()) for _ in range(3)]
        for connection in held:
            connection.sendall(STATUS)
            one(connection)
        found = problem(server.says(b""))
        assert found.reason is Reason.BUSY
        assert found.retry_after_seconds
        held[0].close()
        for _ in range(1000):
            with server.connect() as connection:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(STATUS)
                if one(connection).startswith(b"HTTP/1.1 200 "):
                    return
        pytest.fail("the place was never free")


def test_an_address_has_its_share(start: Start) -> None:
    server = start(ConnectionLimits(per_address=2))
    with server.connect() as first, server.connect() as second:
        for connection in (first, second):
            connection.sendall(STATUS)
            one(connection)
        assert "from this address" in problem(server.says(b"")).detail
        with socket.socket() as other:
            other.settimeout(LONG)
            other.bind(("127.0.0.2", 0))
            other.connect(server.address)
            other.sendall(STATUS)
            assert one(other).startswith(b"HTTP/1.1 200 ")


def test_behind_a_proxy_addresses_have_none(start: Start) -> None:
    server = start(ConnectionLimits(per_address=None))
    with ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(server.connect())
            connection.sendall(STATUS)
            assert one(connection).startswith(b"HTTP/1.1 200 ")


def test_requests_ahead_of_their_answers_have_a_number(start: Start) -> None:
    server = start(ConnectionLimits())
    with server.connect() as connection:
        connection.sendall(STATUS * 10)
        for _ in range(10):
            assert one(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(STATUS * 1000)
        assert rest(connection).count(b"HTTP/1.1 200 ") < 1000


# What is no HTTP


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",  # TLS
        b"hello\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: server\r\nx y: z\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: server\r\ncontent-length: x\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nhost: server\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: server\r\n folded: x\r\n\r\n",
    ],
)
def test_what_is_no_http_is_a_problem(
    start: Start, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert refused(start().says(content)) is Reason.BAD_REQUEST
    assert "Invalid" not in caplog.text  # strangers do not fill the log


def test_old_and_careful_clients_are_served(start: Start) -> None:
    server = start(ConnectionLimits())
    assert server.says(b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b'{"status":"ok"}')
    upgrade = STATUS.replace(b"\r\n\r\n", b"\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
    with server.connect() as connection:
        connection.sendall(upgrade)
        assert one(connection).startswith(b"HTTP/1.1 200 ")
    body = json.dumps(message()).encode()
    head = head_of("/v1/check-in", len(body), "POST")
    with server.connect() as connection:
        connection.sendall(head.replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n"))
        assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert b'"answer":"task"' in one(connection)
