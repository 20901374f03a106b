"""What is said where there is nothing, and when the server itself is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from ravan_edge.errors import StorageError
from ravan_edge.protocol import Reason, Refusal, ServerStatus
from ravan_server.blobs import FolderUpdateLog
from ravan_server.problems import problem_response
from tests.server.conftest import Served
from tests.server.devices import message, offered, path_of, update_of


@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v2/status",
        "/v1/status/",
        "/docs",
        "/redoc",
        "/v1/check-in/",
        "/nothing?x=%ff",
        "/nothing?\xff",
        "/v1/\x1b[2J",
        "/" + "a" * 5_000,
        "/v1/%00",
        "//evil.example/x",
    ],
)
def test_a_path_where_nothing_is(shared: Served, path: str) -> None:
    problem = shared.client.get(path).problem
    assert problem.reason is Reason.NO_SUCH_PATH
    assert problem.detail.isprintable()
    assert "docs/protocol.md" in problem.detail


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/check-in"),
        ("PUT", "/v1/check-in"),
        ("DELETE", "/v1/tasks/some/update"),
        ("POST", "/v1/tasks/some/update"),
        ("GET", "/v1/tasks/some/failure"),
        ("POST", "/v1/status"),
        ("PUT", "/v1/blobs/" + "0" * 64),
        ("TRACE", "/v1/status"),
        ("OPTIONS", "/v1/check-in"),
        ("BREW", "/v1/status"),
    ],
)
def test_a_method_that_a_path_has_not(shared: Served, method: str, path: str) -> None:
    answer = shared.client.run(shared.client.send(method, path))
    assert answer.problem.reason is Reason.NO_SUCH_PATH
    assert method in answer.problem.detail


@pytest.mark.parametrize("host", ["[", "a b", "\xff", "", "x" * 5_000, "evil.example:99999999"])
def test_any_host_is_answered(shared: Served, host: str) -> None:
    for path, status in (("/nothing", 404), ("/v1/status", 200)):
        answer = shared.client.run(shared.client.send("GET", path, headers={"host": host}))
        assert answer.status == status
    answer = shared.client.run(
        shared.client.send(
            "POST", "/v1/check-in?\xff", b"{}", {"host": host, "content-type": "application/json"}
        )
    )
    assert answer.problem.reason is Reason.BAD_MESSAGE


def test_a_bug_is_a_problem_without_its_traceback(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise ZeroDivisionError("a secret of the server")

    offer = offered(served.client)
    for name in ("status", "check_in", "blob", "task", "give_back"):
        monkeypatch.setattr(served.coordinator, name, broken)
    body = update_of(served.artifact, offer)
    for answer in (
        served.client.get("/v1/status"),
        served.client.get("/v1/blobs/" + "0" * 64),
        served.client.post("/v1/check-in", message()),
        served.client.put(path_of(offer), body),
        served.client.post(f"/v1/tasks/{offer.task}/failure", {"reason": "data"}),
    ):
        assert answer.problem.reason is Reason.BUG
        assert not answer.problem.permanent, "an upgrade may mend it"
        assert "ZeroDivisionError" in answer.problem.detail
        for hidden in (b"secret", b"Traceback", b".py", b"test_problems"):
            assert hidden not in answer.body
        assert isinstance(answer.raised, ZeroDivisionError), "the server's log has it"


def test_a_bug_of_the_writer_reaches_who_waits_and_the_server_goes_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = offered(served.client)

    def broken(*_: object) -> Any:
        raise ZeroDivisionError("a secret of the server")

    with monkeypatch.context() as patch:
        patch.setattr("ravan_server.coordinator.accept_update", broken)
        answer = served.client.put(path_of(offer), update_of(served.artifact, offer))
    assert answer.problem.reason is Reason.BUG
    assert b"secret" not in answer.body
    assert served.stored()[0] == 0
    again = served.client.put(path_of(offer), update_of(served.artifact, offer))
    assert again.status == 200


def test_a_full_disk_is_not_the_devices_fault(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = offered(served.client)
    body = update_of(served.artifact, offer)

    def full(*_: object) -> Any:
        raise StorageError("no space left on device", where="updates", hint="make room")

    with monkeypatch.context() as patch:
        patch.setattr(FolderUpdateLog, "append", full)
        answer = served.client.put(path_of(offer), body)
    assert answer.problem.reason is Reason.STORAGE
    assert answer.status == 503
    assert not answer.problem.permanent
    assert int(answer.headers["retry-after"]) >= 1
    assert served.stored() == (0, 0)
    assert served.client.put(path_of(offer), body).status == 200


def test_a_database_that_cannot_be_read_is_no_bug(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise StorageError("cannot read the database: disk I/O error", where="state.sqlite")

    monkeypatch.setattr(served.coordinator._store, "reading", broken)
    for answer in (
        served.client.get("/v1/versions"),
        served.client.put("/v1/tasks/unknown/update", b"12345678"),
        served.client.post("/v1/versions/0/rollback", {}),
    ):
        assert answer.problem.reason is Reason.STORAGE
        assert int(answer.headers["retry-after"]) >= 1


def test_going_back_to_heads_that_are_just_deleted(served: Served) -> None:
    (served.state / "blobs" / served.status.heads).unlink()
    answer = served.client.post("/v1/versions/0/rollback", {})
    assert answer.problem.reason is Reason.NO_SUCH_VERSION


def test_every_reason_can_be_sent() -> None:
    for reason in Reason:
        response = problem_response(Refusal(reason, "x" * 5_000, retry_after_seconds=0.2))
        assert response.status_code == Refusal(reason, "").problem.status
        assert len(response.body) < 3_000
        assert response.headers["retry-after"] == "1"


def test_the_status_says_where_the_rounds_stand(served: Served) -> None:
    status = served.status
    assert status == ServerStatus(
        artifact=served.artifact.digest,
        heads=status.heads,
        version=0,
        round=1,
        rounds=30,
        attempt=1,
        state="waiting",
        devices=0,
        goal=100_000,
        training=0,
        accepted=0,
        failed_attempts=0,
        deadline_seconds=None,
    )
    offer = offered(served.client)
    offered(served.client, device=1)
    served.client.put(path_of(offer), update_of(served.artifact, offer))
    served.clock.move(100)
    after = served.status
    assert (after.state, after.devices, after.training, after.accepted) == ("running", 2, 1, 1)
    assert after.deadline_seconds == 500
    assert served.client.get("/healthz").json() == {"status": "ok"}
