"""Many operations in one transaction: each sees what those before it did, from memory or from the store."""

from __future__ import annotations

import hashlib
import socket
from concurrent.futures import Future
from pathlib import Path

import pytest

from ravan_edge.artifact import Artifact
from ravan_edge.errors import StorageError
from ravan_edge.protocol import (
    CheckIn,
    TaskOffer,
    WaitReason,
)
from ravan_server.coordinator import Coordinator
from ravan_server.operations import CheckedUpdate
from ravan_server.serving import serve
from ravan_server.settings import RoundSettings, ServerSettings
from ravan_server.store import TaskRow, TaskState
from tests.server.server_kit import (
    Clock,
    device_update,
    opened_server,
    wait_for,
)
from tests.tiny_artifact import make_tiny_artifact


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("groups") / "artifact")


def all_check_in(coordinator: Coordinator, numbers: range) -> list[TaskOffer]:
    """Each device twice, nobody waiting for an answer; the offers of the first and the second time agree."""
    futures: list[Future[TaskRow | WaitReason]] = []
    for number in [*numbers, *numbers]:
        found = coordinator.check_in(
            CheckIn(protocol=1, device=f"device-{number:04d}", plans=("whole",))
        )
        assert isinstance(found, Future)
        futures.append(found)
    rows = [future.result(30) for future in futures]
    assert rows[: len(numbers)] == rows[len(numbers) :]
    offers = []
    for row in rows[: len(numbers)]:
        assert isinstance(row, TaskRow)
        offer = coordinator.answer(row, row.device)
        assert isinstance(offer, TaskOffer)
        # Made from a checked template and not checked again, so here.
        assert TaskOffer.model_validate_json(offer.model_dump_json()) == offer
        assert (offer.task, offer.device, offer.plan) == (row.task, row.number, row.plan)
        offers.append(offer)
    assert len({offer.task for offer in offers}) == len(numbers)
    return offers


def all_upload(coordinator: Coordinator, offers: list[TaskOffer]) -> None:
    """Each update twice, nobody waiting for an answer."""
    artifact = coordinator.artifact
    futures = []
    for offer in [*offers, *offers]:
        content = device_update(artifact, offer)
        info = coordinator.reader.view(content).info
        checked = CheckedUpdate(info, content, hashlib.sha256(content).hexdigest())
        futures.append(coordinator.accept(offer.task, checked))
    statuses = [future.result(30).status for future in futures]
    assert statuses == ["accepted"] * len(offers) + ["already_have_it"] * len(offers)


@pytest.mark.parametrize("remembers", [True, False])
def test_operations_of_a_group_see_each_other(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembers: bool
) -> None:
    rounds = RoundSettings(goal=12, over_selection=3.0)
    with opened_server(artifact, tmp_path / "state", Clock(), rounds) as coordinator:
        if not remembers:  # the slow twin: every row is read from the store
            monkeypatch.setattr(coordinator._writer, "_memory", lambda *_: None)
        first = all_check_in(coordinator, range(12))
        assert [offer.device for offer in first] == list(range(12))
        all_upload(coordinator, first)
        wait_for(coordinator, 1)
        # Known devices keep their numbers, new ones go on behind them.
        second = all_check_in(coordinator, range(6, 18))
        assert [offer.device for offer in second] == list(range(6, 18))
        with coordinator._store.reading() as transaction:
            assert {row.state for row in transaction.tasks(1)} == {TaskState.MERGED}
            stored = {row.task: row for row in transaction.tasks(2)}
            assert transaction.devices() == coordinator.status().devices == 18
        assert stored.keys() == {offer.task for offer in second}
        assert stored == coordinator._view.tasks


def test_an_address_that_another_server_has_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    with socket.socket() as taken:
        if hasattr(socket, "SO_REUSEPORT"):  # even one that would share it
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = ServerSettings(port=taken.getsockname()[1])
        with pytest.raises(StorageError, match="cannot listen there"):
            serve(artifact, tmp_path / "state", RoundSettings(), settings, [], print)
