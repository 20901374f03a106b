"""POST /v1/check-in: a task, or when to come back and why."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pydantic import TypeAdapter

from ravan_edge.protocol import (
    PROTOCOL_VERSION,
    CheckInAnswer,
    ComeBack,
    Reason,
    TaskOffer,
    WaitReason,
)
from ravan_server.merging import Merger
from ravan_server.settings import ServerSettings
from tests.server.conftest import Serve, Served
from tests.server.devices import message, offered, path_of, update_of

ANSWER: TypeAdapter[Any] = TypeAdapter(CheckInAnswer)


def check_in(served: Served, device: int = 0, **changes: object) -> TaskOffer | ComeBack:
    answer = served.client.post("/v1/check-in", message(device, **changes))
    assert answer.status == 200, answer.body
    found = ANSWER.validate_json(answer.body)
    assert isinstance(found, TaskOffer | ComeBack)
    return found


def come_back(served: Served, device: int = 0, **changes: object) -> ComeBack:
    found = check_in(served, device, **changes)
    assert isinstance(found, ComeBack)
    return found


def test_a_device_gets_a_task_that_says_all_it_needs(served: Served) -> None:
    offer = check_in(served, heads_to_train=2)
    assert isinstance(offer, TaskOffer)
    assert (offer.round, offer.attempt, offer.version, offer.device) == (1, 1, 0, 0)
    assert (offer.plan, offer.heads_to_train) == ("whole", 2)
    assert offer.artifact == served.artifact.digest
    assert offer.deadline_seconds == 600
    heads = served.client.get(f"/v1/blobs/{offer.heads}")
    assert heads.body == (served.artifact.folder / "heads.safetensors").read_bytes()
    assert len(heads.body) == offer.heads_bytes
    assert len(update_of(served.artifact, offer)) <= offer.upload.most_bytes
    assert offer.local.lr > 0


def test_who_asks_again_gets_the_same_task_with_less_time(served: Served) -> None:
    first = offered(served.client)
    served.clock.move(100)
    second = offered(served.client)
    assert second == first.model_copy(update={"deadline_seconds": 500.0})
    other = offered(served.client, device=1)
    assert other.task != first.task
    assert (other.device, other.seed) == (1, first.seed)


def test_the_first_plan_of_the_device_that_the_artifact_has_is_chosen(served: Served) -> None:
    offer = check_in(served, plans=["executorch", "whole", "ort-training"])
    assert isinstance(offer, TaskOffer)
    assert offer.plan == "whole"


def test_without_a_common_plan_there_is_no_task(served: Served) -> None:
    problem = served.client.post("/v1/check-in", message(plans=["a", "b"])).problem
    assert problem.reason is Reason.NO_COMMON_PLAN
    assert "a, b" in problem.detail
    assert "whole" in problem.detail
    assert served.status.devices == 0


def test_a_full_round_asks_to_come_back(serve: Serve) -> None:
    served = serve(goal=1, over_selection=2)
    offers = [offered(served.client, device) for device in (0, 1)]
    answer = come_back(served, device=2)
    assert answer.reason is WaitReason.ROUND_FULL
    assert answer.latest_seconds > answer.earliest_seconds >= 0
    # A task that is given back is a place.
    given = served.client.post(f"/v1/tasks/{offers[0].task}/failure", {"reason": "data"})
    assert given.status == 204
    assert isinstance(check_in(served, device=2), TaskOffer)


def test_a_device_takes_part_once_in_a_round(served: Served) -> None:
    offer = offered(served.client)
    served.client.put(path_of(offer), update_of(served.artifact, offer))
    assert come_back(served).reason is WaitReason.TOOK_PART
    other = offered(served.client, device=1)
    served.client.post(f"/v1/tasks/{other.task}/failure", {"reason": "out_of_memory"})
    assert come_back(served, device=1).reason is WaitReason.TOOK_PART


def test_while_a_round_is_merged_nobody_gets_a_task(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge, may_merge = Merger.merge, threading.Event()

    def held(*arguments: Any) -> Any:
        assert may_merge.wait(60)
        return merge(*arguments)

    monkeypatch.setattr(Merger, "merge", held)
    served = serve(goal=1, over_selection=2)
    offer = offered(served.client)
    late = offered(served.client, device=1)
    served.client.put(path_of(offer), update_of(served.artifact, offer))
    assert served.status.state == "merging"
    answer = come_back(served, device=2)
    assert answer.reason is WaitReason.MERGING
    assert answer.earliest_seconds < 60
    assert come_back(served, device=1).reason is WaitReason.MERGING, "its task is of no use now"
    refused = served.client.put(path_of(late), update_of(served.artifact, late))
    assert refused.problem.reason is Reason.ROUND_OVER
    may_merge.set()
    served.until(lambda status: status.round == 2)
    assert offered(served.client, device=2).version == 1


def test_after_the_last_round_the_window_is_far_away(serve: Serve) -> None:
    served = serve(goal=1, settings=ServerSettings(rounds=1))
    offer = offered(served.client)
    served.client.put(path_of(offer), update_of(served.artifact, offer))
    status = served.until(lambda status: status.state == "finished")
    assert (status.version, status.round, status.rounds) == (1, 1, 1)
    answer = come_back(served, device=1)
    assert answer.reason is WaitReason.FINISHED
    assert answer.earliest_seconds >= 3600


@pytest.mark.parametrize("condition", ["mains_power", "unmetered"])
def test_conditions_that_are_not_met_or_not_known_give_no_task(
    serve: Serve, condition: str
) -> None:
    served = serve(settings=ServerSettings(**{condition: True}))
    for said in ({}, {condition: False}, {condition: None}):
        assert come_back(served, conditions=said).reason is WaitReason.CONDITIONS
    assert isinstance(check_in(served, conditions={condition: True}), TaskOffer)


def test_windows_grow_with_the_number_of_devices_that_ask(serve: Serve) -> None:
    served = serve(goal=1, over_selection=1, settings=ServerSettings(check_ins_per_second=2))
    offered(served.client)
    answers = [come_back(served, device) for device in range(1, 41)]
    lengths = [answer.latest_seconds - answer.earliest_seconds for answer in answers]
    assert lengths == sorted(lengths)
    assert lengths[-1] == pytest.approx(20)


@pytest.mark.parametrize(("version", "side"), [(PROTOCOL_VERSION + 1, "server"), (0, "device")])
def test_another_protocol_is_named_before_its_unknown_fields(
    served: Served, version: int, side: str
) -> None:
    said = message(protocol=version, artifacts=7, new={"field": 1}, plans=None)
    problem = served.client.post("/v1/check-in", said).problem
    assert problem.reason is Reason.PROTOCOL
    assert problem.status == 426
    assert f"upgrade ravan-edge on the {side}" in problem.detail


@pytest.mark.parametrize("version", [True, False, "1", "2", 1.0, 2.5, None, [1], {}])
def test_a_protocol_that_is_no_number_is_a_bad_message(served: Served, version: object) -> None:
    problem = served.client.post("/v1/check-in", message(protocol=version)).problem
    assert problem.reason is Reason.BAD_MESSAGE
    assert "protocol" in problem.detail
