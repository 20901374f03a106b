"""A server and its devices in one process, which may be killed at any moment: run as a script.

    python -m tests.server.crash_program ARTIFACT STATE MARKS VERSIONS sync|async|robust

Devices enrol, check in, send updates, some twice; one is shut out; one attempt fails at its deadline, or
is merged there where rounds are asynchronous. Then one device is always slow: it sends what it found
from an earlier version.
What a device or an operator was
told is written to MARKS at once, a line each, with one write:

    ack TASK SHA256 DEVICE VERSION    this update is acknowledged
    version NUMBER SHA256             this version was seen
    enrolled DEVICE KEY               this device is let in
    revoked DEVICE                    this device is shut out

Started again on the same folder it goes on. It ends when there are VERSIONS versions, or with an
error when the disk lets nothing happen any more.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path

from ravan_edge.artifact import open_artifact
from ravan_edge.merge import (
    MergeName,
    MergeSettings,
    RoundMode,
    RoundRule,
    ServerOptimizerName,
)
from ravan_edge.protocol import ComeBack, InviteDevices, Refusal, TaskOffer
from ravan_edge.signing import device_of_key
from ravan_edge.training import LocalSettings
from ravan_server.coordinator import Coordinator
from ravan_server.settings import RoundSettings
from tests.server.server_kit import (
    Clock,
    ask,
    device_update,
    opened_server,
    send,
    wait_for,
    wait_until,
)

LOCAL = LocalSettings(local_steps=1)
SYNC = RoundSettings(local=LOCAL, goal=3, over_selection=1.4, deadline_seconds=60)
RUNS = {
    "sync": SYNC,
    "async": replace(
        SYNC, rule=RoundRule(RoundMode.ASYNC, buffer=3, max_staleness=2), goal=4, minimum=1
    ),
    # Files beside the heads: rows of differences while it merges, and moments.
    "robust": replace(
        SYNC,
        merging=MergeSettings(
            MergeName.TRIMMED_MEAN,
            byzantine=1,
            max_norm=0.5,
            server_optimizer=ServerOptimizerName.MOMENTUM,
        ),
    ),
}
DEVICES = 5
SLOW = 4  # with asynchronous rounds
# Versions; in the asynchronous run one more than has a stale update.
DEADLINE_AFTER = {"sync": 1, "async": 2, "robust": 1}
VERSIONS = {"sync": 2, "async": 3, "robust": 2}
PATIENCE_SECONDS = 10
MOST_ROUNDS = 20


def main(artifact: Path, state: Path, marks: Path, versions: int, run: str) -> None:
    """Until there are so many versions."""
    descriptor = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    clock = Clock()
    unsent: list[TaskOffer] = []
    with opened_server(open_artifact(artifact), state, clock, RUNS[run]) as server:
        if server.status().version == 0:
            enrol_all(server, descriptor)
        has_waited = False
        for _ in range(MOST_ROUNDS):
            status = server.status()
            mark(descriptor, f"version {status.version} {status.heads}")
            due = status.version >= DEADLINE_AFTER[run] and not status.failed_attempts
            if due and not has_waited:
                has_waited = True
                wait_for_a_deadline(server, descriptor, clock)
            if server.status().version >= versions:
                break
            one_round(server, descriptor, unsent)
        status = server.status()
        mark(descriptor, f"version {status.version} {status.heads}")
        if status.version < versions:
            sys.exit(1)


def enrol_all(server: Coordinator, descriptor: int) -> None:
    """All that are not yet in, with one invitation that has room for them only; each asks twice."""
    known = {row.device for row in server.members.devices(0).devices}
    new = [number for number in range(DEVICES) if device(number) not in known]
    if not new:
        return
    try:
        token = server.members.invite(InviteDevices(uses=len(new))).token
    except Refusal as refusal:
        say(refusal)
        return
    for number in new:
        for _ in range(2):
            try:
                row = server.members.enrol(token, public_key(number)).result(30)
            except Refusal as refusal:
                say(refusal)
            else:
                mark(descriptor, f"enrolled {row.device} {row.public_key}")


def wait_for_a_deadline(server: Coordinator, descriptor: int, clock: Clock) -> None:
    """Two updates, of which one is taken out again, and then nothing until the deadline."""
    for number in (
        2,
        0,
        1,
    ):  # the others may fill a buffer, and nobody gets a task while it is merged
        try:
            offer = ask(server, device(number))
            if isinstance(offer, TaskOffer) and number < 2:  # device 2 is not heard of again
                upload(server, offer, descriptor)
        except Refusal as refusal:
            say(refusal)
    try:
        mark(descriptor, f"revoked {server.members.revoke(device(1)).device}")
    except Refusal as refusal:
        say(refusal)
    clock.now += 1000
    wait_until(lambda: all_are_late(server), PATIENCE_SECONDS)


def all_are_late(server: Coordinator) -> bool:
    """Whether the deadline has passed for everybody, and its attempt has failed where one can."""
    status = server.status()
    return not status.training and (status.mode == "async" or status.failed_attempts > 0)


def one_round(server: Coordinator, descriptor: int, unsent: list[TaskOffer]) -> None:
    """Every device that gets a task does it; what comes too late is refused."""
    version = server.status().version
    offers: list[TaskOffer | ComeBack] = [*unsent]
    unsent.clear()
    for number in range(DEVICES):
        try:
            found = ask(server, device(number))
        except Refusal as refusal:
            say(refusal)
            continue
        if server.status().mode == "async" and number == SLOW and isinstance(found, TaskOffer):
            unsent.append(found)
        else:
            offers.append(found)
    for offer in offers:
        if isinstance(offer, TaskOffer):
            try:
                upload(server, offer, descriptor)
                upload(server, offer, descriptor)  # its answer was lost, it says
            except Refusal as refusal:
                say(refusal)
    if server.status().state == "merging" or server.status().version > version:
        wait_for(server, version + 1, PATIENCE_SECONDS)


def say(refusal: Refusal) -> None:
    """A disk that failed, or a device that came too late: both try again in the next round."""
    print(f"{refusal.reason}: {refusal}", file=sys.stderr)


def upload(server: Coordinator, offer: TaskOffer, descriptor: int) -> None:
    """Send, and write down what is promised in the moment it is."""
    content = device_update(server.artifact, offer)
    digest = hashlib.sha256(content).hexdigest()
    said = f"ack {offer.task} {digest} {offer.device} {offer.version}"
    send(server, content, offer.task, lambda: mark(descriptor, said))


def device(number: int) -> str:
    """What a device calls itself: the id of its key."""
    return device_of_key(bytes.fromhex(public_key(number)))


def public_key(number: int) -> str:
    """A device's key. Nothing is signed here: this program stands behind the network."""
    return hashlib.sha256(b"%d" % number).hexdigest()


def mark(descriptor: int, text: str) -> None:
    """Something that somebody outside knows from now on."""
    os.write(descriptor, f"{text}\n".encode())


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        Path(sys.argv[3]),
        int(sys.argv[4]),
        sys.argv[5],
    )
