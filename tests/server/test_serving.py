"""The application behind real sockets: what a network can do to an upload."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import httpx2
import pytest

from ravan_edge.protocol import Problem, Reason
from ravan_server.http.connection import ConnectionLimits
from ravan_server.http.server import http_server
from tests.server.conftest import Served
from tests.server.devices import offered, path_of, update_of

Address = tuple[str, int]


@pytest.fixture
def address(served: Served) -> Iterator[Address]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = http_server(served.app, ConnectionLimits())
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield listening.getsockname()
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture
def network(address: Address) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"http://{address[0]}:{address[1]}", timeout=60) as client:
        yield client


def request(path: str, length: int, *more: str) -> bytes:
    """The head of an upload."""
    lines = [f"PUT {path} HTTP/1.1", "host: server", f"content-length: {length}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def answer_to(address: Address, content: bytes) -> bytes:
    """Everything that comes back until the server ends the connection."""
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(content)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_a_connection_cut_at_any_byte_leaves_the_task_open(
    served: Served, address: Address, network: httpx2.Client
) -> None:
    offer = offered(served.client)
    body = update_of(served.artifact, offer)
    content = request(path_of(offer), len(body)) + body
    for end in range(len(content)):
        with socket.create_connection(address) as connection:
            connection.sendall(content[:end])
    assert network.get("/v1/status").json()["training"] == 1
    assert served.stored() == (0, 0)
    assert network.put(path_of(offer), content=body).json()["status"] == "accepted"
    assert served.status.accepted == 1


def test_an_update_through_the_network(served: Served, network: httpx2.Client) -> None:
    offer = offered(served.client)
    body = update_of(served.artifact, offer)
    assert network.put(path_of(offer), content=body).json()["status"] == "accepted"
    assert network.put(path_of(offer), content=body).json()["status"] == "already_have_it"
    blob = network.get(f"/v1/blobs/{offer.heads}", headers={"range": "bytes=8-"})
    assert blob.status_code == 206
    assert len(blob.content) == offer.heads_bytes - 8


def test_a_refusal_is_read_by_who_is_still_sending(served: Served, network: httpx2.Client) -> None:
    offer = offered(served.client)
    for _ in range(10):
        answer = network.put(path_of(offer), content=bytes(20_000_000))
        assert Problem.model_validate_json(answer.content).reason is Reason.TOO_LARGE
        assert answer.headers["connection"] == "close"


def test_an_upload_in_chunks_is_refused(served: Served, network: httpx2.Client) -> None:
    offer = offered(served.client)
    body = update_of(served.artifact, offer)
    answer = network.put(path_of(offer), content=iter([body]))
    assert answer.request.headers["transfer-encoding"] == "chunked"
    assert Problem.model_validate_json(answer.content).reason is Reason.LENGTH_REQUIRED
    assert served.stored() == (0, 0)


def test_who_asks_first_is_refused_without_sending(address: Address) -> None:
    content = request(path_of("nobodys"), 1000, "expect: 100-continue")
    assert answer_to(address, content).startswith(b"HTTP/1.1 404 ")


def test_two_lengths_at_once_are_no_request(served: Served, address: Address) -> None:
    offer = offered(served.client)
    body = update_of(served.artifact, offer)
    for more in ("transfer-encoding: chunked", f"content-length: {len(body) + 1}"):
        head = request(path_of(offer), len(body), more)
        assert answer_to(address, head + body).startswith(b"HTTP/1.1 400 ")
    assert served.stored() == (0, 0)


def test_what_follows_a_refused_upload_is_not_taken_for_a_request(
    served: Served, address: Address
) -> None:
    offer = offered(served.client)
    hidden = f"POST /v1/tasks/{offer.task}/failure HTTP/1.1\r\nhost: server\r\n".encode()
    hidden += b'content-type: application/json\r\ncontent-length: 17\r\n\r\n{"reason":"data"}'
    found = answer_to(address, request(path_of("nobodys"), len(hidden)) + hidden)
    assert found.count(b"HTTP/1.1 ") == 1
    assert served.status.training == 1
