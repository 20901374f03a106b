"""Two servers of one run, on one PostgreSQL and one S3-compatible store, against one; for `bench.server`."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.rows import Row, at_least, at_most
from bench.server_sides import CONNECTIONS, ServerProcess, load
from ravan_edge.artifact import Artifact
from tests.services.postgresql import Postgresql, missing_postgresql, postgresql_server
from tests.services.s3 import ACCESS_KEY, SECRET_KEY, S3Server, missing_s3, s3_server

__all__ = ["measure", "missing"]

TARGET_RATIO = 0.8  # on two cores for all of it the second one can only cost
TARGET_TAKEOVER_SECONDS = 3.0
MERGED = 50  # updates of a version that is made after a kill


def missing() -> str | None:
    """Why it cannot be measured; None: it can."""
    return missing_postgresql() or missing_s3()


def measure(
    artifact: Artifact, folder: Path, uploads: int, repeats: int, say: Callable[[str], None]
) -> list[Row]:
    """Uploads a second to two and to one, by turns; and how long a run stands still when one is killed."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    takeovers = []
    os.environ.update(AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY)
    buckets = folder / "buckets"
    buckets.mkdir()
    with postgresql_server() as database, s3_server(buckets) as store:
        for number in range(repeats):
            for count, found in rates.items():
                with _servers(artifact, folder, database, store, count, uploads) as servers:
                    found.append(uploads / _upload(artifact, servers, uploads))
            with _servers(artifact, folder, database, store, 2, MERGED) as servers:
                takeovers.append(_takeover(artifact, servers, number % 2))
            say(
                f"several: two {rates[2][-1]:.0f}/s, one {rates[1][-1]:.0f}/s; "
                f"killed: {takeovers[-1]:.2f} s"
            )
    ratios = [two / one for two, one in zip(rates[2], rates[1], strict=True)]
    how = (
        f"{uploads} uploads of 200,716 bytes, {CONNECTIONS} connections, PostgreSQL and VersityGW "
        f"on the same cores; one server {statistics.median(rates[1]):,.0f} a second"
    )
    return [
        at_least("two processes: durable uploads, of one's", ratios, TARGET_RATIO, how, 2),
        at_most(
            "... s from the kill of one to the version",
            takeovers,
            TARGET_TAKEOVER_SECONDS,
            f"killed after the last of {MERGED} updates was acknowledged",
            2,
        ),
    ]


@contextmanager
def _servers(
    artifact: Artifact, folder: Path, database: Postgresql, store: S3Server, count: int, goal: int
) -> Iterator[list[ServerProcess]]:
    """So many servers of one new run, whose first round takes ``goal`` updates."""
    settings: dict[str, Any] = {
        "goal": goal,
        "over_selection": 1,
        "deadline_seconds": 3600,
        "database": database.url(database.new_database()),
        "objects": f"s3://{store.new_bucket()}/run",
        "objects_endpoint": store.endpoint,
    }
    states = [folder / f"state-{number}" for number in range(count)]
    with ExitStack() as stack:
        for state in states:
            stack.callback(shutil.rmtree, state)
        yield [
            stack.enter_context(ServerProcess(artifact.folder, state, shared=True, **settings))
            for state in states
        ]


def _upload(artifact: Artifact, servers: list[ServerProcess], count: int) -> float:
    """Seconds for all uploads, shared out to the servers; tasks are all of the first one."""
    asked = {"first": 0, "count": count, "rate": None, "artifact": artifact.digest}
    common = {"connections": CONNECTIONS // len(servers), "folder": str(artifact.folder)}
    tasks = load(kind="check-ins", port=servers[0].port, **asked, **common)["tasks"]
    assert len(tasks) == count

    def send(number: int) -> dict[str, Any]:
        mine = tasks[number :: len(servers)]
        return load(kind="uploads", port=servers[number].port, tasks=mine, **common)

    with ThreadPoolExecutor(len(servers)) as pool:
        answers = list(pool.map(send, range(len(servers))))
    assert sum(answer["statuses"]["accepted"] for answer in answers) == count
    return max(float(answer["seconds"]) for answer in answers)


def _takeover(artifact: Artifact, servers: list[ServerProcess], victim: int) -> float:
    """Seconds from the kill of one server, after the last acknowledgement, to the version at the other."""
    _upload(artifact, servers, MERGED)
    os.kill(servers[victim].pid, signal.SIGKILL)
    began = time.perf_counter()
    while servers[1 - victim].get("/v1/status")["version"] < 1:
        time.sleep(0.01)
    return time.perf_counter() - began
