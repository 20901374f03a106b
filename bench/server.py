"""How much the aggregator can take: uploads, check-ins, a crowd, an idle process, a day of rounds.

    python -m bench.server [uploads] [postgresql] [several] [check-ins] [login] [crowd] [idle] [modes] [day]
        [--json]

Every row runs a real `ravan serve` with its state on the disk of `--folder`, and a load that is one
other process on the same machine (bench/server_load.py), so the cores are for both. The models
are the tests' tiny ones: nobody trains here, and only the size of an update counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import server_several
from bench.rows import Row, at_least, at_most, p99
from bench.server_sides import (
    CONNECTIONS,
    ServerProcess,
    floor,
    load,
    make_artifact,
    make_enrolled,
    make_known,
    resident_mb,
    uploads_a_second,
)
from ravan_edge.memory import PeakSampler
from ravan_server.settings import RoundSettings
from tests.services.postgresql import missing_postgresql, postgresql_server

LARGE = {"heads": 8, "rank": 79}  # an update has 200,716 bytes
SMALL = {"heads": 4, "rank": 24}  # 10,204 bytes
SLOW_EVERY, SLOW_SECONDS = 10, 1.0

TARGET_UPLOADS = 400.0
TARGET_FLOOR_RATIO = 0.4
TARGET_POSTGRESQL_RATIO = 0.5  # its processes take their part of the two cores
TARGET_CHECK_INS = 1500.0
TARGET_LOGIN_RATIO = 0.4  # a check of a signature takes 0.1 ms of the one thread that answers
TARGET_P99_MS = 100.0
TARGET_CROWD_SECONDS = 8.0
TARGET_CROWD_MB = 300.0
TARGET_IDLE_MB = 150.0
TARGET_START_SECONDS = 1.5
TARGET_GROWTH_MB = 5.0  # of what was there after the first 5,000: allocators breathe that much


def uploads(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Durable, verified uploads a second, in one round that takes them all."""
    artifact = make_artifact(folder / "artifact", **LARGE)
    count: int = options.uploads
    rates, floors = [], []
    for number in range(options.repeats):
        rates.append(uploads_a_second(artifact, folder / f"state{number}", count))
        floors.append(floor(artifact.folder, count))
        say(f"uploads: {rates[-1]:.0f}/s, floor {floors[-1]:.0f}/s")
    how = f"{count} uploads of 200,716 bytes, {CONNECTIONS} connections"
    ratios = [rate / bound for rate, bound in zip(rates, floors, strict=True)]
    bound = statistics.median(floors)
    return [
        at_least("durable uploads a second", rates, TARGET_UPLOADS, how),
        at_least(
            "... as a part of the floor",
            ratios,
            TARGET_FLOOR_RATIO,
            f"floor {bound:,.0f} a second ({min(floors):,.0f} to {max(floors):,.0f})",
            2,
        ),
    ]


def postgresql(folder: Path, options: argparse.Namespace) -> list[Row]:
    """The same on a PostgreSQL of its own and on SQLite, by turns."""
    if missing := missing_postgresql():
        say(f"postgresql: left out: {missing}")
        return []
    artifact = make_artifact(folder / "artifact", **LARGE)
    count: int = options.uploads
    ratios, rates, embedded = [], [], []
    with postgresql_server() as database:
        for number in range(options.repeats):
            state = folder / f"state{number}"
            embedded.append(uploads_a_second(artifact, state, count))
            url = database.url(database.new_database())
            rates.append(uploads_a_second(artifact, state, count, database=url))
            ratios.append(rates[-1] / embedded[-1])
            say(f"postgresql: {rates[-1]:.0f}/s, SQLite {embedded[-1]:.0f}/s")
    how = f"{count} uploads of 200,716 bytes; SQLite {statistics.median(embedded):,.0f} a second"
    return [
        at_least("PostgreSQL: durable uploads a second", rates, TARGET_UPLOADS, how),
        at_least("... as a part of SQLite's", ratios, TARGET_POSTGRESQL_RATIO, "by turns", 2),
    ]


def several(folder: Path, options: argparse.Namespace) -> list[Row]:
    """The same to two servers of one run; and when one of them is killed."""
    if missing := server_several.missing():
        say(f"several: left out: {missing}")
        return []
    artifact = make_artifact(folder / "artifact", **LARGE)
    return server_several.measure(artifact, folder, options.uploads, options.repeats, say)


def check_ins(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Check-ins of devices that had a task before: they get one, the same again, or a window."""
    artifact = make_artifact(folder / "artifact", **SMALL)
    devices: int = options.devices
    slow = devices // 3
    found: dict[str, tuple[list[float], list[float]]] = {}
    with_places = RoundSettings(goal=devices, over_selection=1.0, deadline_seconds=3600)
    full = RoundSettings(goal=100, over_selection=1.0, deadline_seconds=3600)
    for settings, kinds in (
        (with_places, ("a task", "the same task again")),
        (full, ("a window",)),
    ):
        make_known(artifact, folder / "known", devices, settings)
        for number in range(options.repeats):
            state = folder / f"state{number}"
            shutil.copytree(folder / "known", state)
            with ServerProcess(artifact.folder, state) as server:
                common = {"kind": "check-ins", "port": server.port, "artifact": artifact.digest}
                if settings is full:  # the round's places are taken first
                    load(first=devices - 100, count=100, rate=None, connections=8, **common)
                for kind in kinds:
                    asked = (devices if settings is with_places else devices - 100) - slow
                    late = load(
                        first=0, count=slow, rate=TARGET_CHECK_INS / 2, connections=16, **common
                    )
                    fast = load(
                        first=slow, count=asked, rate=None, connections=CONNECTIONS, **common
                    )
                    check_answers(kind, (late, slow), (fast, asked))
                    rates, delays = found.setdefault(kind, ([], []))
                    rates.append(asked / fast["seconds"])
                    delays.append(1000 * p99(late["latencies"]))
                    say(f"check-ins, {kind}: {rates[-1]:.0f}/s, p99 {delays[-1]:.1f} ms")
            shutil.rmtree(state)
        shutil.rmtree(folder / "known")
    rows = []
    for kind, (rates, delays) in found.items():
        how = f"{devices} known devices, {CONNECTIONS} connections"
        rows.append(at_least(f"check-ins a second, {kind}", rates, TARGET_CHECK_INS, how))
        how = f"{slow} arrivals at {TARGET_CHECK_INS / 2:.0f} a second, from the due moment"
        rows.append(at_most("... p99 at half that load, ms", delays, TARGET_P99_MS, how, 1))
    return rows


def check_answers(kind: str, *answers: tuple[dict[str, Any], int]) -> None:
    """Everybody was answered, with what this kind of check-in is about."""
    for answer, count in answers:
        tasks, windows = len(answer["tasks"]), sum(answer["waits"].values())
        expected = (0, count) if kind == "a window" else (count, 0)
        assert (tasks, windows) == expected, (kind, tasks, answer["waits"], answer["refused"])


def login(folder: Path, options: argparse.Namespace) -> list[Row]:
    """The same check-ins and uploads with signatures and without, in turn."""
    artifact = make_artifact(folder / "artifact", **LARGE)
    half: int = options.uploads // 2
    make_enrolled(artifact, folder / "enrolled", 2 * half)
    settings: dict[str, float] = {"goal": 2 * half, "over_selection": 1, "deadline_seconds": 3600}
    found: dict[tuple[str, bool], list[float]] = {}
    for number in range(options.repeats):
        for signed in (False, True):
            state = folder / f"state{number}{signed}"
            shutil.copytree(folder / "enrolled", state)
            words = settings | ({"enrolment": True} if signed else {})
            with ServerProcess(artifact.folder, state, **words) as server:
                common = {"port": server.port, "signed": signed}
                asking = {**common, "kind": "check-ins", "rate": None, "artifact": artifact.digest}
                # One after the other, so that device N has number N, whose key signs its update.
                offered = load(first=0, count=half, connections=1, **asking)["tasks"]
                seconds = {
                    kind: load(first=first, count=half, connections=CONNECTIONS, **asking)[
                        "seconds"
                    ]
                    for kind, first in (("a task", half), ("the same task again", 0))
                }
                sent = load(
                    kind="uploads",
                    folder=str(artifact.folder),
                    tasks=offered,
                    connections=CONNECTIONS,
                    **common,
                )
                status = server.get("/healthz")
            assert status == {"status": "ok"}
            assert sent["statuses"] == {"accepted": half}, sent["statuses"]
            seconds["an upload"] = sent["seconds"]
            for kind, taken in seconds.items():
                found.setdefault((kind, signed), []).append(half / taken)
                say(f"login: {kind}, {'' if signed else 'not '}signed: {half / taken:.0f}/s")
            shutil.rmtree(state)
    rows = []
    how = f"{half} enrolled devices, {CONNECTIONS} connections"
    for kind in ("a task", "the same task again", "an upload"):
        rates, plain = found[kind, True], found[kind, False]
        target = TARGET_UPLOADS if kind == "an upload" else TARGET_CHECK_INS
        rows.append(at_least(f"signed requests a second, {kind}", rates, target, how))
        ratios = [one / other for one, other in zip(rates, plain, strict=True)]
        without = f"without a login {statistics.median(plain):,.0f} a second"
        rows.append(at_least("... of those without", ratios, TARGET_LOGIN_RATIO, without, 2))
    return rows


def crowd(folder: Path, options: argparse.Namespace) -> list[Row]:
    """New devices that check in within one second, each on a connection of its own."""
    artifact = make_artifact(folder / "artifact", **SMALL)
    devices: int = options.devices
    places = devices // 2
    delays, peaks, unanswered = [], [], []
    for number in range(options.repeats):
        state = folder / f"state{number}"
        with (
            ServerProcess(artifact.folder, state, goal=places, over_selection=1) as server,
            PeakSampler([server.pid], interval_seconds=0.01) as sampler,
        ):
            seen = load(
                kind="check-ins",
                port=server.port,
                artifact=artifact.digest,
                first=0,
                count=devices,
                rate=float(devices),
                connections=0,
            )
            peak = sampler.peak(server.pid)
        tasks, windows = seen["tasks"], sum(seen["waits"].values())
        assert len({task["task"] for task in tasks}) == len(tasks) <= places
        assert len({task["device"] for task in tasks}) == len(tasks)
        unanswered.append(float(devices - len(tasks) - windows))
        delays.append(p99(seen["latencies"]))
        peaks.append((peak.anonymous_bytes + peak.mapped_bytes) / 1e6)
        say(
            f"crowd: {len(tasks)} tasks, {windows} windows, {seen['refused']} refused, "
            f"p99 {delays[-1]:.2f} s, all within {seen['seconds']:.2f} s, {peaks[-1]:.0f} MB"
        )
        shutil.rmtree(state)
    how = f"{devices} devices within 1 s, {places} places, a connection each"
    return [
        at_most("crowd: devices without an answer", unanswered, 0.0, how),
        at_most("... p99 of the answer, s", delays, TARGET_CROWD_SECONDS, how, 2),
        at_most("... peak of the server, MB", peaks, TARGET_CROWD_MB, "mapped files included"),
    ]


def idle(folder: Path, options: argparse.Namespace) -> list[Row]:
    """A server that nobody talks to."""
    artifact = make_artifact(folder / "artifact", **SMALL)
    starts, sizes = [], []
    for number in range(2 * options.repeats + 1):
        with ServerProcess(artifact.folder, folder / f"state{number}") as server:
            time.sleep(1)
            starts.append(server.start_seconds)
            sizes.append(resident_mb(server.pid))
        say(f"idle: start {starts[-1]:.2f} s, {sizes[-1]:.0f} MB")
    how = "from before the process is made until /healthz is answered"
    return [
        at_most("start, s", starts, TARGET_START_SECONDS, how, 2),
        at_most("idle server, MB", sizes, TARGET_IDLE_MB, "mapped files included"),
    ]


def day(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Many rounds one after the other: does memory grow, do files stay?"""
    artifact = make_artifact(folder / "artifact", **SMALL)
    state = folder / "state"
    first: int = options.day // 6
    sizes = []
    began = time.perf_counter()
    with ServerProcess(artifact.folder, state, goal=100, rounds=1_000_000) as server:
        for count in (first, options.day - first):
            answer = load(
                kind="rounds",
                port=server.port,
                folder=str(artifact.folder),
                artifact=artifact.digest,
                count=count,
                devices=1000,
                connections=16,
            )
            sizes.append(resident_mb(server.pid))
            say(f"day: {answer['accepted']} updates, {sizes[-1]:.1f} MB, {answer['refused']}")
        rounds = server.get("/v1/status")["version"]
    seconds = time.perf_counter() - began
    with sqlite3.connect(state / "state.sqlite") as database:
        latest = database.execute("select max(id) from attempts").fetchone()[0]
    left = [
        path for path in (state / "updates").iterdir() if path.stem.split("-")[0] != str(latest)
    ]
    how = (
        f"{first} updates: {sizes[0]:.1f} MB, {options.day}: {sizes[1]:.1f} MB; {rounds} rounds of "
        f"100 updates of 10,204 bytes, {seconds:.0f} s"
    )
    return [
        at_most("day: memory gained, MB", [sizes[1] - sizes[0]], TARGET_GROWTH_MB, how, 1),
        at_most("... files of merged rounds", [float(len(left))], 0.0, how),
    ]


def modes(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Rounds with slow devices among the quick ones, synchronous and asynchronous in turn."""
    artifact = make_artifact(folder / "artifact", **SMALL)
    count: int = options.uploads
    rates: dict[str, list[float]] = {"sync": [], "async": []}
    lost: dict[str, list[float]] = {"sync": [], "async": []}
    for number in range(options.repeats):
        for mode, found in rates.items():
            state = folder / f"state{number}{mode}"
            # Where 60 updates make a version and 78 devices may be at work.
            settings: dict[str, Any] = {"goal": 60, "rounds": 1_000_000, "mode": mode}
            with ServerProcess(artifact.folder, state, **settings) as server:
                answer = load(
                    kind="rounds",
                    port=server.port,
                    folder=str(artifact.folder),
                    artifact=artifact.digest,
                    count=count,
                    devices=1000,
                    connections=80,
                    slow_every=SLOW_EVERY,
                    slow_seconds=SLOW_SECONDS,
                )
            found.append(answer["accepted"] / answer["seconds"])
            lost[mode].append(float(sum(answer["refused"].values())))
            say(f"modes: {mode} {found[-1]:.0f} updates/s, refused {answer['refused']}")
            shutil.rmtree(state)
    how = (
        f"{count} updates, 78 devices at work, every {SLOW_EVERY}th needs {SLOW_SECONDS:g} s; "
        f"synchronous {statistics.median(rates['sync']):,.0f} a second, "
        f"{statistics.median(lost['sync']):,.0f} updates refused as too late"
    )
    ratios = [one / other for one, other in zip(rates["async"], rates["sync"], strict=True)]
    return [
        at_least("asynchronous: updates a second, of synchronous", ratios, 1.0, how, 2),
        at_most("... updates refused", lost["async"], 0.0, how),
    ]


ROWS: dict[str, Callable[[Path, argparse.Namespace], list[Row]]] = {
    "uploads": uploads,
    "postgresql": postgresql,
    "several": several,
    "check-ins": check_ins,
    "login": login,
    "crowd": crowd,
    "idle": idle,
    "modes": modes,
    "day": day,
}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What the aggregator can take.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; none: all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--uploads", type=int, default=2000, help="of row uploads, each repeat")
    parser.add_argument("--devices", type=int, default=10_000, help="of rows check-ins and crowd")
    parser.add_argument("--day", type=int, default=30_000, help="updates of row day")
    parser.add_argument("--folder", type=Path, help="on the disk that is measured")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    if unknown := set(options.rows) - ROWS.keys():
        parser.error(f"no row {', '.join(sorted(unknown))}")
    found = []
    for name in options.rows or ROWS:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            found += ROWS[name](Path(folder), options)
    if options.json:
        rows = [asdict(row) for row in found]
        machine = {"processors": os.cpu_count(), "load_average": os.getloadavg()[0]}
        print(json.dumps({"rows": rows, **machine}, indent=2))
        return
    print(*found, sep="\n")
    print(f"{os.cpu_count()} cores for server and load together, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
