"""Web pages cannot talk to a server that is for its own machine; who a proxy says that is asking."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.types import Receive, Scope, Send

from ravan_edge.protocol import Reason
from ravan_server.app import create_app
from ravan_server.http.origin import BehindProxy
from tests.server.asgi import Client
from tests.server.conftest import Served


@pytest.fixture
def local(served: Served) -> Iterator[Client]:
    with Client(create_app(served.coordinator, local_only=True)) as client:
        yield client


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8750", "127.9.9.9:1", "localhost", "LocalHost:80", "[::1]:8750"],
)
def test_names_of_this_machine_are_served(local: Client, host: str) -> None:
    assert local.get("/v1/status", host=host).status == 200
    assert local.get("/v1/status", host=host, origin=f"http://{host.lower()}").status == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8750",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "127.0.0.1:8750:1",
        "192.0.2.1",
        "0.0.0.0",
        "[::2]",
        "[::1",
        "\x1b[2J",
    ],
)
def test_other_names_are_not(local: Client, host: str) -> None:
    problem = local.get("/v1/status", host=host).problem
    assert problem.reason is Reason.WRONG_SITE
    assert problem.detail.isprintable()


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://evil.example",
        "http://evil.example",
        "http://127.0.0.1",
        "http://127.0.0.1:8751",
        "https://127.0.0.1:8750",
        "http://127.0.0.1:8750.evil.example",
    ],
)
def test_a_page_of_another_site_changes_nothing(served: Served, local: Client, origin: str) -> None:
    headers = {"host": "127.0.0.1:8750", "origin": origin}
    answer = local.run(local.send("POST", "/v1/versions/0/rollback", headers=headers))
    assert answer.problem.reason is Reason.WRONG_SITE
    assert served.status.version == 0


def test_a_program_without_host_is_served(local: Client) -> None:
    seen = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [pair for pair in scope["headers"] if pair[0] != b"host"]
        seen.append(headers)
        await local_app({**scope, "headers": headers}, receive, send)

    local_app = local._app
    with Client(application) as client:
        assert client.get("/healthz").status == 200
    assert seen == [[]]


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ({}, "127.0.0.1"),
        ({"x-forwarded-for": "192.0.2.7"}, "192.0.2.7"),
        ({"x-forwarded-for": "10.0.0.1, 198.51.100.1,2001:db8::1"}, "2001:db8::1"),
        ({"x-forwarded-for": "192.0.2.7, "}, "127.0.0.1"),
        ({"x-forwarded-for": "unknown"}, "127.0.0.1"),
        ({"x-forwarded-for": "192.0.2.7\x00"}, "127.0.0.1"),
    ],
)
def test_a_client_is_who_the_proxy_saw(forwarded: dict[str, str], expected: str) -> None:
    seen = []

    async def application(scope: Scope, _: Receive, send: Send) -> None:
        seen.append(scope["client"][0])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    with Client(BehindProxy(application)) as client:
        client.run(client.send("GET", "/", headers=forwarded))
    assert seen == [expected]
