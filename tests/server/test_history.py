"""What became of attempts and tasks, counted by a slow twin in Python from what the devices did."""

from __future__ import annotations

import pytest

from ravan_edge.protocol import AttemptInfo, Attempts, Tasks
from ravan_server import history
from ravan_server.rounds import AttemptState
from ravan_server.store import TaskState
from tests.server.asgi import Client
from tests.server.conftest import Serve, Served
from tests.server.devices import offered, path_of, update_of


def attempts(client: Client, query: str = "") -> Attempts:
    return Attempts.model_validate_json(client.get(f"/v1/attempts{query}").body)


def tasks(client: Client, entry: int, query: str = "") -> Tasks:
    return Tasks.model_validate_json(client.get(f"/v1/attempts/{entry}/tasks{query}").body)


def test_the_words_are_those_of_the_rules() -> None:
    schema = AttemptInfo.model_json_schema()["properties"]["state"]["enum"]
    assert schema == [str(state) for state in AttemptState]
    item = Tasks.model_json_schema()["$defs"]["TaskInfo"]["properties"]["state"]["enum"]
    assert item == [str(state) for state in TaskState]


def test_a_run_with_everything_in_it(serve: Serve) -> None:
    served = serve(goal=2, over_selection=2, deadline_seconds=60)
    client, clock = served.client, served.clock

    (waiting,) = attempts(client).attempts
    assert (waiting.state, waiting.seconds, waiting.places) == ("open", None, 4)

    # The first attempt: one sends, one gives its task back, one says nothing. The deadline fails it.
    first = [offered(client, number) for number in range(3)]
    clock.move(5)
    body = update_of(served.artifact, first[0])
    client.put(path_of(first[0]), body)
    said = {"reason": "out_of_memory", "detail": "<b>13 MB: missing</b>"}
    client.post(f"/v1/tasks/{first[1].task}/failure", said)
    (running,) = attempts(client).attempts
    assert (running.training, running.stored, running.seconds) == (1, 1, 5.0)
    states = sorted(task.state for task in tasks(client, 1).tasks)
    assert states == ["accepted", "given_back", "training"]
    clock.move(56)
    served.coordinator.turn()

    # The second is merged, with one that is late.
    second = [offered(client, number) for number in range(3)]
    clock.move(3)
    bodies = [update_of(served.artifact, offer) for offer in second[:2]]
    for offer, content in zip(second, bodies, strict=False):
        client.put(path_of(offer), content)
    served.until(lambda status: status.version == 1)

    # The third is ended by an operator.
    third = offered(client, 0)
    client.put(path_of(third), update_of(served.artifact, third))
    assert client.post("/v1/versions/0/rollback", b"").status == 200

    one, two, three, four = attempts(client).attempts
    assert [each.entry for each in (one, two, three, four)] == [1, 2, 3, 4]
    assert [(each.round, each.attempt) for each in (one, two, three, four)] == [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    ]
    assert (one.state, one.failure, one.made, one.seconds) == ("failed", "deadline", None, 61.0)
    assert (one.unused, one.late, one.given_back) == (1, 1, {"out_of_memory": 1})
    assert one.bytes == len(body)
    assert (two.state, two.failure, two.made, two.version) == ("merged", None, 1, 0)
    assert (two.merged, two.late, two.given_back, two.seconds) == (2, 1, {}, 3.0)
    assert two.bytes == sum(map(len, bodies))
    assert (three.state, three.failure, three.unused) == ("failed", "rollback", 1)
    assert (four.state, four.version, four.bytes) == ("open", 2, 0)
    assert {each.mean_staleness for each in (one, two, three, four)} == {None}

    by_device = {task.device: task for task in tasks(client, 1).tasks}
    sent, gave_back, silent = (by_device[f"device-{number:06d}"] for number in range(3))
    assert (sent.state, sent.bytes, sent.seconds) == ("unused", len(body), 5.0)
    assert (sent.examples, sent.steps, sent.failure) == (800, 50, None)
    assert gave_back.state == "given_back"
    assert gave_back.failure is not None
    assert (gave_back.failure.reason, gave_back.failure.detail) == (
        "out_of_memory",
        "<b>13 MB: missing</b>",
    )
    assert (silent.state, silent.bytes, silent.seconds) == ("late", None, 61.0)
    assert tasks(client, 99).tasks == ()


def test_it_comes_in_pages(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_MOST_ATTEMPTS", 3)
    monkeypatch.setattr(history, "_MOST_TASKS", 4)
    served = serve(goal=100)
    client = served.client
    for _ in range(7):
        served.coordinator.go_back(0)
    latest = attempts(client)
    assert ([each.entry for each in latest.attempts], latest.after) == ([6, 7, 8], None)
    seen, after = [], 0
    while after is not None:
        page = attempts(client, f"?after={after}")
        seen += [each.entry for each in page.attempts]
        after = page.after  # type: ignore[assignment]
    assert seen == list(range(1, 9))
    assert attempts(client, "?after=8").attempts == ()
    for number in range(10):
        offered(client, number)
    devices, after = [], 0
    while after is not None:
        found = tasks(client, 8, f"?after={after}")
        assert len(found.tasks) <= 4
        devices += [task.number for task in found.tasks]
        after = found.after  # type: ignore[assignment]
    assert sorted(devices) == list(range(10))


@pytest.mark.parametrize("path", ["/v1/attempts", "/v1/versions", "/v1/attempts/1/tasks"])
def test_who_has_it_already_is_told_so(served: Served, path: str) -> None:
    first = served.client.get(path)
    tag = first.headers["etag"]
    again = served.client.get(path, if_none_match=tag)
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    offered(served.client)
    served.coordinator.go_back(0)
    changed = served.client.get(path, if_none_match=tag)
    assert changed.status == 200
    assert changed.headers["etag"] != tag


@pytest.mark.parametrize("query", ["?after=-1", "?after=x", f"?after={1 << 53}"])
def test_a_bad_page_is_refused(shared: Served, query: str) -> None:
    assert shared.client.get(f"/v1/attempts{query}").problem.status == 422
    assert shared.client.get(f"/v1/attempts/1/tasks{query}").problem.status == 422
    assert shared.client.get("/v1/attempts/0/tasks").problem.status == 422


def test_an_attempt_of_many_tasks_is_no_longer_than_another(served: Served) -> None:
    for number in range(30):
        offered(served.client, number)
    (info,) = attempts(served.client).attempts
    assert info.training == 30
    assert len(served.client.get("/v1/attempts").body) < 700
