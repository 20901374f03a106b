"""What the server counts, for ``/metrics``: every name and every label it can have is in this file.

Events are counted where they happen, in one line; what can be read off anyway (where the rounds stand,
open connections) is read when somebody asks. Labels are words of the protocol, never what a client sent: the
number of series does not grow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from importlib.metadata import version as version_of

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ravan_edge.protocol import FailureReason, Reason, RunState, ServerStatus, WaitReason
from ravan_server.request_tally import RequestTally

__all__ = ["METRICS_TYPE", "UNROUTED", "Meters"]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of the exposition format that :meth:`Meters.text` writes."""

UNROUTED = "none"
"""The route of requests that were refused before one was looked for."""

_TASK = "task"
_COMMIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5)
_COMMIT_OPERATIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_MERGE_SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0)
_EVALUATION_SECONDS = (0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0)


class _ReadWhenAsked(Collector):
    """Metrics that somebody else holds."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        return ()  # so that nothing is read when it is registered

    def collect(self) -> Iterable[Metric]:
        return self._read()


class Meters:
    """Counters of one server, in a registry of their own. Any thread may count."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = RequestTally()
        registry.register(_ReadWhenAsked(self.requests.metrics))
        self._refusals = Counter(
            "ravan_refusals", "Requests that were refused.", ["route", "reason"], registry=registry
        )
        check_ins = Counter(
            "ravan_check_ins", "Answers to check-ins.", ["answer"], registry=registry
        )
        self._check_ins = {
            answer: check_ins.labels(answer) for answer in (_TASK, *map(str, WaitReason))
        }
        uploads = Counter(
            "ravan_uploads", "Updates that came whole and right.", ["status"], registry=registry
        )
        self._uploads = {
            status: uploads.labels(status) for status in ("accepted", "already_have_it")
        }
        self._update_bytes = Counter("ravan_update_bytes", "Updates stored.", registry=registry)
        given_back = Counter(
            "ravan_tasks_given_back", "Tasks that devices gave back.", ["reason"], registry=registry
        )
        self._given_back = {reason: given_back.labels(reason) for reason in map(str, FailureReason)}
        self.merge_seconds = Histogram(
            "ravan_merge_seconds", "Merges.", buckets=_MERGE_SECONDS, registry=registry
        )
        self.troubles = Counter(
            "ravan_round_troubles",
            "Merges and turns of rounds that failed and are tried again.",
            registry=registry,
        )
        self.evaluation_seconds = Histogram(
            "ravan_evaluation_seconds",
            "Evaluations of versions.",
            buckets=_EVALUATION_SECONDS,
            registry=registry,
        )
        self.failed_evaluations = Counter(
            "ravan_failed_evaluations", "Evaluations without scores.", registry=registry
        )
        self._commit_seconds = Histogram(
            "ravan_commit_seconds", "Commits.", buckets=_COMMIT_SECONDS, registry=registry
        )
        self._commit_operations = Histogram(
            "ravan_commit_operations",
            "Operations that shared a commit.",
            buckets=_COMMIT_OPERATIONS,
            registry=registry,
        )
        self._failed_commits = Counter(
            "ravan_failed_commits", "Commits that the disk did not let happen.", registry=registry
        )
        self._score = Gauge(
            "ravan_score", "Of the latest version that was scored.", ["name"], registry=registry
        )

    # requests

    def refusal(self, reason: Reason, route: str = UNROUTED) -> None:
        """A request was refused."""
        self._refusals.labels(route, reason).inc()

    # devices

    def check_in(self, wait: WaitReason | None) -> None:
        """A check-in was answered: with a task, or with a reason to come back."""
        self._check_ins[_TASK if wait is None else wait].inc()

    def upload(self, status: str, size: int) -> None:
        """An update was taken, or had been before."""
        self._uploads[status].inc()
        if status == "accepted":
            self._update_bytes.inc(size)

    def given_back(self, reason: FailureReason) -> None:
        """A device gave its task back."""
        self._given_back[reason].inc()

    # what the server does by itself

    def commit(self, operations: int, seconds: float, *, failed: bool = False) -> None:
        """So many operations shared a commit."""
        self._commit_operations.observe(operations)
        self._commit_seconds.observe(seconds)
        if failed:
            self._failed_commits.inc()

    def scored(self, scores: str | None) -> None:
        """Scores of the latest version that has some, as JSON; None: there are none."""
        for name, value in json.loads(scores or "{}").items():
            if value is not None:
                self._score.labels(name).set(value)

    # what is read when somebody asks

    def watch_status(self, status: Callable[[], ServerStatus]) -> None:
        """Read where the rounds stand from here."""
        self._registry.register(_ReadWhenAsked(lambda: _status_metrics(status())))

    def watch_gauge(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Read a number that goes up and down from here."""
        self._registry.register(
            _ReadWhenAsked(lambda: [GaugeMetricFamily(name, meaning, value=value())])
        )

    def watch_counter(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Read a number that only goes up from here; ``name`` without ``_total``."""
        self._registry.register(
            _ReadWhenAsked(lambda: [CounterMetricFamily(name, meaning, value=value())])
        )

    def text(self) -> bytes:
        """All of it, in the exposition format of Prometheus."""
        return generate_latest(self._registry)


class _Gauge(StrEnum):
    """What a status has to say, with what it means."""

    VERSION = "The latest version of the heads."
    ROUND = "The round that is being made."
    ROUNDS = "How many rounds there will be."
    ATTEMPT = "The how-manieth try of this round."
    DEVICES = "Devices that ever had a task."
    GOAL = "Updates that end this attempt."
    TRAINING = "Tasks of this attempt that are out."
    ACCEPTED = "Updates of this attempt that are stored."


def _status_metrics(status: ServerStatus) -> Iterator[Metric]:
    for gauge in _Gauge:
        name = gauge.name.lower()
        yield GaugeMetricFamily(f"ravan_{name}", gauge.value, value=getattr(status, name))
    state = GaugeMetricFamily("ravan_state", "1 for what the server is doing.", labels=["state"])
    for each in RunState:
        state.add_metric([each], float(each is status.state))
    yield state
    yield CounterMetricFamily(
        "ravan_failed_attempts", "Attempts of all rounds that failed.", value=status.failed_attempts
    )
    info = GaugeMetricFamily(
        "ravan_server_info", "Always 1.", labels=["version", "protocol", "artifact"]
    )
    info.add_metric([version_of("ravan-edge"), str(status.protocol), status.artifact], 1.0)
    yield info
