"""What the server counts, asked for as Prometheus asks: by the format's own reader."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.parser import text_string_to_metric_families

from ravan_edge.artifact import Artifact
from ravan_edge.errors import StorageError
from ravan_edge.protocol import Reason
from ravan_server.http.connection import ConnectionLimits
from ravan_server.http.server import http_server
from ravan_server.meters import METRICS_TYPE
from ravan_server.request_tally import RequestTally
from ravan_server.settings import ServerSettings
from tests.server.asgi import Client
from tests.server.conftest import Serve, Served, open_served
from tests.server.devices import message, offered, path_of, update_of
from tests.server.login_kit import Guarded, guard, guarded
from tests.server.server_kit import Clock, opened_server

__all__ = ["guard", "guarded"]

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "server.md").read_text("utf-8")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(client: Client) -> Samples:
    """All of /metrics, by name and labels."""
    answer = client.get("/metrics")
    assert (answer.status, answer.headers["content-type"]) == (200, METRICS_TYPE)
    return {
        (each.name, frozenset(each.labels.items())): each.value
        for family in text_string_to_metric_families(answer.body.decode())
        for each in family.samples
    }


def value(found: Samples, name: str, /, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


def test_a_round_is_counted(serve: Serve) -> None:
    served = serve(goal=2, over_selection=1)
    client = served.client
    offers = [offered(client, number) for number in range(2)]
    assert client.post("/v1/check-in", message(7)).json()["reason"] == "round_full"
    bodies = [update_of(served.artifact, offer) for offer in offers]
    client.put(path_of(offers[0]), bodies[0])
    client.put(path_of(offers[0]), bodies[0])
    assert client.put(path_of(offers[0]), bodies[1]).problem.reason is Reason.WRONG_TASK
    during = samples(client)
    assert value(during, "ravan_accepted") == value(during, "ravan_training") == 1
    assert value(during, "ravan_state", state="running") == 1
    assert value(during, "ravan_goal") == 2
    client.put(path_of(offers[1]), bodies[1])
    served.until(lambda status: status.version == 1)
    served.coordinator.turn()  # what follows a merge is done
    found = samples(client)
    assert value(found, "ravan_check_ins_total", answer="task") == 2
    assert value(found, "ravan_check_ins_total", answer="round_full") == 1
    assert value(found, "ravan_uploads_total", status="accepted") == 2
    assert value(found, "ravan_uploads_total", status="already_have_it") == 1
    assert value(found, "ravan_update_bytes_total") == sum(map(len, bodies))
    upload = "/v1/tasks/{task}/update"
    assert value(found, "ravan_refusals_total", route=upload, reason="wrong_task") == 1
    assert value(found, "ravan_http_requests_total", route=upload, status="2xx") == 3
    assert value(found, "ravan_http_requests_total", route=upload, status="4xx") == 1
    assert value(found, "ravan_http_request_seconds_count", route=upload) == 4
    assert value(found, "ravan_merge_seconds_count") == 1
    assert value(found, "ravan_version") == 1
    assert value(found, "ravan_round") == 2
    assert value(found, "ravan_devices") == 2
    commits = value(found, "ravan_commit_seconds_count")
    assert value(found, "ravan_commit_operations_count") == commits >= 3
    # Two tasks, two uploads (the repeated one is known without the store), a merge, forgetting.
    assert value(found, "ravan_commit_operations_sum") == 6


def test_what_a_device_gives_back_is_counted_by_its_reason(served: Served) -> None:
    for number, reason in enumerate(["out_of_memory", "out_of_memory", "data"]):
        task = offered(served.client, number).task
        said = {"reason": reason, "detail": 'ravan_x{evil="1"} 9\n'}
        assert served.client.post(f"/v1/tasks/{task}/failure", said).status == 204
    assert served.client.post("/v1/tasks/nobodys/failure", {"reason": "data"}).status == 404
    found = samples(served.client)
    assert value(found, "ravan_tasks_given_back_total", reason="out_of_memory") == 2
    assert value(found, "ravan_tasks_given_back_total", reason="data") == 1
    assert not [name for name, _ in found if name.startswith("ravan_x")]


def test_nothing_that_a_client_sends_becomes_a_label(served: Served) -> None:
    before = len(samples(served.client))
    for number in range(50):
        served.client.get(f"/nothing/{number}")
        served.client.get(f"/v1/blobs/{number:064x}")
        served.client.post("/v1/check-in", {"protocol": 1, "device": f"device-{number}"})
        served.client.put(f"/v1/tasks/task-{number}/update", b"x" * 20)
    after = samples(served.client)
    assert len(after) - before < 120
    text = repr(after)
    assert "nothing" not in text
    assert "device-1" not in text
    assert value(after, "ravan_refusals_total", route="none", reason="no_such_path") == 50


def test_only_operators_see_it(guarded: Guarded) -> None:
    assert guarded.client.get("/metrics").problem.reason is Reason.LOGIN_NEEDED
    text = guarded.operator("GET", "/metrics").body.decode()
    assert 'ravan_refusals_total{reason="login_needed",route="none"} 1.0' in text
    assert guarded.client.get("/readyz").json() == {"status": "ready"}


def test_failed_attempts_are_counted_over_restarts(artifact: Artifact, tmp_path: Path) -> None:
    for _ in range(2):
        with opened_server(artifact, tmp_path, Clock()) as server:
            if not server.status().failed_attempts:
                server.go_back(0)
            text = server.meters.text().decode()
            assert "ravan_failed_attempts_total 1.0" in text
            assert "ravan_version 1.0" in text


def test_scores_are_those_of_the_latest_version(served: Served) -> None:
    meters = served.coordinator.meters
    meters.scored(json.dumps({"accuracy": 0.5, "loss": 1.25, "perplexity": None}))
    meters.scored(None)
    found = samples(served.client)
    assert value(found, "ravan_score", name="accuracy") == 0.5
    assert value(found, "ravan_score", name="loss") == 1.25
    assert ("ravan_score", frozenset({("name", "perplexity")})) not in found


def test_connections_are_counted(served: Served) -> None:
    server = http_server(served.app, ConnectionLimits(), meters=served.coordinator.meters)
    connections = server._connections  # type: ignore[attr-defined]
    connections.received_bytes += 17
    connections.on_refusal(Reason.TOO_SLOW)
    found = samples(served.client)
    assert value(found, "ravan_received_bytes_total") == 17
    assert value(found, "ravan_open_connections") == 0
    assert value(found, "ravan_refusals_total", route="none", reason="too_slow") == 1


def test_a_server_that_cannot_write_is_not_ready(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert served.client.get("/readyz").json() == {"status": "ready"}

    def full() -> None:
        raise StorageError("no space left", where="/a/secret/place", hint="free some")

    readiness = served.coordinator.readiness
    with monkeypatch.context() as patch:
        patch.setattr(served.coordinator._parts.log, "sync", full)
        # Asked again at once it says what it knows: nobody can make the disk busy by asking.
        assert served.client.get("/readyz").status == 200
        patch.setattr(readiness, "_clock", lambda: 1e12)
        problem = served.client.get("/readyz").problem
        assert problem.reason is Reason.STORAGE
        assert "secret" not in problem.detail
        found = samples(served.client)
        assert value(found, "ravan_failed_commits_total") == 1
    monkeypatch.setattr(readiness, "_clock", lambda: 2e12)
    assert served.client.get("/readyz").status == 200


def test_a_server_whose_threads_have_ended_or_that_ends_is_not_ready(
    artifact: Artifact, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        served = open_served(stack, artifact, tmp_path / "state", settings=ServerSettings())
        served.coordinator._housekeeper.stop()
        problem = served.client.get("/readyz").problem
        assert (problem.reason, problem.detail) == (Reason.BUSY, "the housekeeper does not run")
        served.coordinator.readiness.end()
        assert served.client.get("/readyz").problem.detail == "the server is ending"
        assert served.client.get("/healthz").status == 200


def test_every_metric_is_on_the_page_and_no_other(served: Served) -> None:
    http_server(served.app, ConnectionLimits(), meters=served.coordinator.meters)
    text = served.coordinator.meters.text().decode()
    kinds = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in text_string_to_metric_families(text)
        if family.name.startswith("ravan_") and not family.name.endswith("_created")
    }
    documented = {
        name: line.split("|")[2].strip()
        for line in PAGE.splitlines()
        if line.startswith("| `ravan_")
        for name in re.findall(r"`(ravan_\w+)`", line.split("|")[1])
    }
    assert documented == kinds


def test_requests_are_counted_as_prometheus_would() -> None:
    """By the library's own counters: the tally is only quicker."""
    tally, registry = RequestTally(), CollectorRegistry()
    counter = Counter("ravan_http_requests", "x", ["route", "status"], registry=registry)
    bounds = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
    histogram = Histogram(
        "ravan_http_request_seconds", "x", ["route"], buckets=bounds, registry=registry
    )
    chosen = Random(0)
    for _ in range(500):
        route, status = chosen.choice(["/a", "/b"]), chosen.choice([200, 206, 304, 404, 503])
        seconds = chosen.choice([*bounds, 0.0, 1e-9, 0.3, 11.0, chosen.expovariate(5)])
        tally.add(route, status, seconds, 7)
        counter.labels(route, f"{status // 100}xx").inc()
        histogram.labels(route).observe(seconds)

    def read(metrics: Iterable[Metric]) -> Samples:
        return {
            (each.name, frozenset(each.labels.items())): round(each.value, 6)
            for metric in metrics
            for each in metric.samples
            if not each.name.endswith("_created")
        }

    found = read(tally.metrics())
    assert found.pop(("ravan_sent_bytes_total", frozenset())) == 3500
    assert found == read(registry.collect())
