"""Bodies of messages that are not as the protocol says, and the limit of their size."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ravan_edge.protocol import KINDS, Problem, Reason, TaskOffer
from tests.server.conftest import Served
from tests.server.devices import message, offered

MOST_BYTES = 64 * 1024
JSON = {"content-type": "application/json"}


def refused(served: Served, body: bytes, path: str = "/v1/check-in") -> Problem:
    problem = served.client.post(path, body).problem
    assert served.status.devices == 0
    return problem


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nothing",
        b"null",
        b"7",
        b'"text"',
        b"[]",
        b"{}",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"[" * 30_000 + b"]" * 30_000,
        b'{"a":' * 9_000 + b"1" + b"}" * 9_000,
        b"\xff\xfe",
        b"\x00" * 100,
        json.dumps(message()).encode()[:-1],
        json.dumps(message()).encode() * 2,
        b'{"protocol": 1' + b"0" * 5_000 + b"}",
        b'{"protocol": NaN}',
        b'{"protocol": 1e400}',
        b'{"protocol": -Infinity}',
        b'{"protocol": ' + b"1" * 4_000 + b"}",
    ],
    ids=lambda body: f"{bytes(body[:12])!r}-{len(body)}",
)
def test_what_is_no_check_in_is_refused(served: Served, body: bytes) -> None:
    assert refused(served, body).reason in {Reason.BAD_MESSAGE, Reason.PROTOCOL}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device", "short"),
        ("device", "a" * 65),
        ("device", "../../../etc"),
        ("device", "device\x00\x1b[2J"),
        ("device", "device-\ud800"),
        ("device", "ｄｅｖｉｃｅ００１"),
        ("device", 12345678),
        ("device", None),
        ("plans", []),
        ("plans", ["x"] * 17),
        ("plans", ["UPPER"]),
        ("plans", "whole"),
        ("plans", {"whole": 1}),
        ("plans", [["whole"]]),
        ("plans", ["\ud800"]),
        ("artifacts", ["0" * 63]),
        ("artifacts", ["0" * 64] * 65),
        ("memory_limit_bytes", 0),
        ("memory_limit_bytes", -1),
        ("memory_limit_bytes", 1 << 53),
        ("memory_limit_bytes", 1.5),
        ("memory_limit_bytes", True),
        ("heads_to_train", 0),
        ("heads_to_train", 65_537),
        ("heads_to_train", "2"),
        ("conditions", None),
        ("conditions", {"mains_power": 1}),
        ("conditions", {"mains_power": "true"}),
        ("conditions", {"weather": True}),
        ("more", "than is known"),
        ("\ud800", "half a surrogate pair"),
        ("\x1b[2J", "clears the terminal"),
        ("k" * 3_000, "a long name"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_field_that_is_wrong_is_named(served: Served, field: str, value: object) -> None:
    problem = refused(served, json.dumps(message(**{field: value})).encode())
    assert problem.reason is Reason.BAD_MESSAGE
    assert problem.detail.startswith("body")
    if field.isidentifier() and len(field) < 100:
        assert field in problem.detail
    assert problem.detail.isprintable()
    assert len(problem.detail) < 1500


@pytest.mark.parametrize("field", ["protocol", "device", "plans"])
def test_a_field_that_is_missing_is_named(served: Served, field: str) -> None:
    said = message()
    del said[field]
    assert field in refused(served, json.dumps(said).encode()).detail


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "a/\xe9"]
)
def test_a_body_that_is_not_called_json_is_refused(served: Served, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    body = json.dumps(message()).encode()
    answer = served.client.run(served.client.send("POST", "/v1/check-in", body, headers))
    assert answer.problem.reason is Reason.BAD_MESSAGE


@pytest.mark.parametrize("announced", [True, False])
def test_a_message_has_a_largest_size(served: Served, announced: bool) -> None:
    fits = json.dumps(message()).encode().ljust(MOST_BYTES)
    for body, status in ((fits, 200), (fits + b" ", KINDS[Reason.TOO_LARGE].status)):
        length = {"content-length": str(len(body))} if announced else {}
        answer = served.client.run(
            served.client.send(
                "POST",
                "/v1/check-in",
                [body[:1000], body[1000:]],
                {**JSON, **length},
            )
        )
        assert answer.status == status
    assert answer.problem.reason is Reason.TOO_LARGE
    assert str(MOST_BYTES) in answer.problem.detail
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/check-in"),
        ("POST", "/v1/tasks/some/failure"),
        ("POST", "/v1/tasks/some/update"),
        ("DELETE", "/v1/tasks/some/update"),
        ("PUT", "/v1/check-in"),
        ("PATCH", "/nothing"),
    ],
)
def test_an_endless_message_is_not_read_to_its_end(served: Served, method: str, path: str) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"[" * 10_000

    tracemalloc.start()
    try:
        answer = served.client.run(served.client.send(method, path, endless(), JSON))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.problem.reason is Reason.TOO_LARGE
    assert answer.chunks_read <= MOST_BYTES // 10_000 + 1
    assert peak < 4 * MOST_BYTES


def test_an_announced_size_is_refused_before_a_byte_is_read(served: Served) -> None:
    headers = {**JSON, "content-length": str(MOST_BYTES + 1)}
    answer = served.client.run(served.client.send("POST", "/v1/check-in", [b"{"] * 10, headers))
    assert answer.problem.reason is Reason.TOO_LARGE
    assert answer.chunks_read == 0


@pytest.mark.parametrize("path", ["/v1/check-in", "/v1/tasks/some/failure"])
def test_a_message_that_is_cut_off_does_nothing(served: Served, path: str) -> None:
    body = json.dumps(message()).encode()
    for end in range(len(body) + 1):
        answer = served.client.run(served.client.send("POST", path, [body[:end]], JSON, cut=True))
        assert answer.problem.reason is Reason.CUT_OFF
    assert served.status.devices == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reason": "no such reason"},
        {"reason": None},
        {"reason": "data", "detail": "x" * 501},
        {"reason": "data", "detail": 7},
        {"reason": "data", "detail": "\ud800"},
        {"reason": "data", "more": 1},
        [],
        7,
    ],
    ids=lambda body: ascii(body)[:40],
)
def test_a_failure_that_is_not_as_the_protocol_says_changes_nothing(
    served: Served, body: object
) -> None:
    offer = offered(served.client)
    problem = served.client.post(f"/v1/tasks/{offer.task}/failure", body).problem
    assert problem.reason is Reason.BAD_MESSAGE
    assert served.status.training == 1


# All examples talk to one server: nothing that they say may change what it does.
ONE_SERVER = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(body=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
@ONE_SERVER
def test_any_body_is_answered(served: Served, body: bytes) -> None:
    for path in ("/v1/check-in", "/v1/tasks/some/failure"):
        assert served.client.post(path, body).problem.status in {404, 422, 426}


@given(
    changes=st.dictionaries(st.sampled_from(sorted([*message(), "conditions", "x"])), json_values)
)
@ONE_SERVER
def test_any_fields_are_answered(served: Served, changes: dict[str, object]) -> None:
    answer = served.client.post("/v1/check-in", message(**changes))
    assert answer.status == 200 or answer.problem.status in {409, 422, 426}


@pytest.mark.parametrize("name", ["application/json; charset=utf-8", "application/vnd.ravan+json"])
def test_json_by_another_name_is_the_same_message(served: Served, name: str) -> None:
    body = json.dumps(message()).encode()
    headers = {"content-type": name}
    answer = served.client.run(served.client.send("POST", "/v1/check-in", body, headers=headers))
    assert TaskOffer.model_validate_json(answer.body).task == offered(served.client).task
    bad = json.dumps(message(plans="whole")).encode()
    refusal = served.client.run(served.client.send("POST", "/v1/check-in", bad, headers=headers))
    assert refusal.problem == served.client.post("/v1/check-in", bad).problem
