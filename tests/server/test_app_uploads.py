"""PUT /v1/tasks/{task}/update: what becomes of an upload, and of the task."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator, Iterator

import pytest

from ravan_edge.artifact import Artifact, update_bytes
from ravan_edge.protocol import KINDS, Reason, Receipt
from tests.server.asgi import Answer
from tests.server.conftest import Serve, Served
from tests.server.devices import offered, path_of, update_of


def receipt(answer: Answer) -> Receipt:
    assert answer.status == 200, answer.body
    return Receipt.model_validate_json(answer.body)


def test_an_update_is_acknowledged_and_kept_as_it_was_sent(served: Served) -> None:
    offer = offered(served.client)
    body = update_of(served.artifact, offer)
    got = receipt(served.client.put(path_of(offer), body))
    assert (got.task, got.status, got.bytes) == (offer.task, "accepted", len(body))
    assert got.sha256 == hashlib.sha256(body).hexdigest()
    (segment,) = (served.state / "updates").iterdir()
    assert segment.read_bytes()[: len(body)] == body
    assert (served.status.accepted, served.status.training) == (1, 0)


@pytest.mark.parametrize("piece", [1, 7, 64, 1000])
def test_it_may_arrive_in_any_pieces(served: Served, piece: int) -> None:
    offer = offered(served.client)
    body = update_of(served.artifact, offer)
    pieces = [body[start : start + piece] for start in range(0, len(body), piece)]
    assert receipt(served.client.put(path_of(offer), pieces, len(body))).status == "accepted"


def test_sending_the_same_again_is_harmless(served: Served) -> None:
    offer = offered(served.client)
    body = update_of(served.artifact, offer)
    first = receipt(served.client.put(path_of(offer), body))
    kept = served.stored()
    for _ in range(3):
        again = receipt(served.client.put(path_of(offer), body))
        assert again == first.model_copy(update={"status": "already_have_it"})
    assert served.stored() == kept


def test_of_the_same_update_sent_twice_at_once_one_is_stored(served: Served) -> None:
    offer = offered(served.client)
    body = update_of(served.artifact, offer)

    async def both() -> list[Answer]:
        sends = [served.client.send_put(path_of(offer), body) for _ in range(8)]
        return await asyncio.gather(*sends)

    found = sorted(receipt(answer).status for answer in served.client.run(both()))
    assert found == ["accepted", *["already_have_it"] * 7]
    assert served.status.accepted == 1


def test_a_task_has_one_update_and_the_first_counts(served: Served) -> None:
    offer = offered(served.client)
    bodies = [update_of(served.artifact, offer, seed) for seed in (1, 2)]
    receipt(served.client.put(path_of(offer), bodies[0]))
    kept = served.stored()
    problem = served.client.put(path_of(offer), bodies[1]).problem
    assert problem.reason is Reason.DIFFERENT_UPDATE
    assert hashlib.sha256(bodies[0]).hexdigest() in problem.detail
    assert served.stored() == kept


def test_after_the_merge_a_repeat_is_still_known_and_the_late_are_told(serve: Serve) -> None:
    served = serve(goal=1, over_selection=3)
    offer, late = offered(served.client), offered(served.client, device=1)
    body = update_of(served.artifact, offer)
    receipt(served.client.put(path_of(offer), body))
    served.until(lambda status: status.version == 1)
    assert receipt(served.client.put(path_of(offer), body)).status == "already_have_it"
    other = served.client.put(path_of(offer), update_of(served.artifact, offer, seed=9))
    assert other.problem.reason is Reason.DIFFERENT_UPDATE
    too_late = served.client.put(path_of(late), [update_of(served.artifact, late)], 1400)
    assert too_late.problem.reason is Reason.ROUND_OVER
    assert too_late.chunks_read == 0, "its upload is spared"
    assert served.stored() == (0, 0)


def test_after_a_deadline_without_enough_updates_the_stored_one_is_still_known(
    serve: Serve,
) -> None:
    served = serve(goal=2, deadline_seconds=10)
    offer, late = offered(served.client), offered(served.client, device=1)
    body = update_of(served.artifact, offer)
    receipt(served.client.put(path_of(offer), body))
    served.clock.move(11)
    status = served.until(lambda status: status.failed_attempts == 1)
    assert (status.round, status.attempt, status.version) == (1, 2, 0)
    assert receipt(served.client.put(path_of(offer), body)).status == "already_have_it"
    refused = served.client.put(path_of(late), update_of(served.artifact, late))
    assert refused.problem.reason is Reason.ROUND_OVER
    assert served.status.accepted == 0


def test_a_task_that_was_given_back_takes_no_update(served: Served) -> None:
    offer = offered(served.client)
    failure = f"/v1/tasks/{offer.task}/failure"
    for _ in range(2):
        assert served.client.post(failure, {"reason": "storage", "detail": "full"}).status == 204
    assert served.status.training == 0
    answer = served.client.put(path_of(offer), update_of(served.artifact, offer))
    assert answer.problem.reason is Reason.TASK_GIVEN_BACK
    assert answer.chunks_read == 0
    assert served.stored() == (0, 0)


def test_a_task_with_an_update_is_not_given_back(served: Served) -> None:
    offer = offered(served.client)
    receipt(served.client.put(path_of(offer), update_of(served.artifact, offer)))
    answer = served.client.post(f"/v1/tasks/{offer.task}/failure", {"reason": "crashed"})
    assert answer.problem.reason is Reason.ROUND_OVER
    assert served.status.accepted == 1


@pytest.mark.parametrize("path", ["/v1/tasks/nobodys/update", "/v1/tasks/nobodys/failure"])
def test_a_task_that_is_not_known_is_refused_unread(served: Served, path: str) -> None:
    if path.endswith("update"):
        answer = served.client.put(path, [b"x"] * 3, 3)
        assert answer.chunks_read == 0
    else:
        answer = served.client.post(path, {"reason": "data"})
    assert answer.problem.reason is Reason.NO_SUCH_TASK


@pytest.mark.parametrize("task", ["a b", "a" * 65, "%00", "\xe4", "..%2f..", "%ff", "'--"])
def test_a_name_that_no_task_has_is_refused(served: Served, task: str) -> None:
    answer = served.client.put(f"/v1/tasks/{task}/update", [b"x"], 1)
    assert answer.problem.reason in {Reason.BAD_MESSAGE, Reason.NO_SUCH_PATH}
    assert answer.chunks_read == 0


# -- what headers say


def endless_gzip() -> Iterator[bytes]:
    while True:
        yield gzip.compress(bytes(1 << 20))


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "x", ""])
def test_a_compressed_body_is_refused_unread(served: Served, encoding: str) -> None:
    offer = offered(served.client)
    answer = served.client.put(path_of(offer), endless_gzip(), 1000, content_encoding=encoding)
    assert answer.problem.reason is Reason.ENCODED
    assert answer.chunks_read == 0
    assert answer.headers["connection"] == "close"


def test_identity_is_no_encoding(served: Served) -> None:
    offer = offered(served.client)
    body = update_of(served.artifact, offer)
    receipt(served.client.put(path_of(offer), body, content_encoding="Identity"))


def test_a_body_of_unknown_length_is_refused_unread(served: Served) -> None:
    offer = offered(served.client)
    body = update_of(served.artifact, offer)
    for headers in (
        {},
        {"transfer-encoding": "chunked"},
        *({"content-length": text} for text in ("", "-1", "+5", "0x10", "1e3", "9" * 19, "²")),
    ):
        answer = served.client.run(served.client.send("PUT", path_of(offer), body, headers))
        assert answer.problem.reason is Reason.LENGTH_REQUIRED, headers
        assert answer.chunks_read == 0
    receipt(served.client.put(path_of(offer), body))


def test_a_length_above_the_largest_update_is_refused_unread(served: Served) -> None:
    offer = offered(served.client)
    most = update_bytes(served.artifact.manifest)
    assert offer.upload.most_bytes == most
    for length in (most + 1, 1 << 30, 10**18 - 1):
        answer = served.client.put(path_of(offer), endless_gzip(), length)
        assert answer.problem.reason is Reason.TOO_LARGE
        assert answer.problem.permanent
        assert str(most) in answer.problem.detail
        assert answer.chunks_read == 0
    assert served.stored() == (0, 0)


def test_more_bytes_than_announced_are_refused(served: Served) -> None:
    offer = offered(served.client)
    body = update_of(served.artifact, offer)
    answer = served.client.put(path_of(offer), [body, b"more", b"never read"], len(body))
    assert answer.problem.reason is Reason.BAD_MESSAGE
    assert answer.chunks_read == 2
    assert served.stored() == (0, 0)
    receipt(served.client.put(path_of(offer), body))


def test_fewer_bytes_than_announced_can_be_sent_again(served: Served) -> None:
    offer = offered(served.client)
    body = update_of(served.artifact, offer)
    problem = served.client.put(path_of(offer), body[:-1], len(body)).problem
    assert problem.reason is Reason.CUT_OFF
    assert not problem.permanent
    receipt(served.client.put(path_of(offer), body))


@pytest.mark.parametrize("length", range(9))
def test_a_body_too_short_to_be_an_update_is_not_to_be_sent_again(
    served: Served, length: int
) -> None:
    offer = offered(served.client)
    problem = served.client.put(path_of(offer), bytes(length)).problem
    assert problem.reason is Reason.BAD_UPDATE
    assert problem.permanent
    receipt(served.client.put(path_of(offer), update_of(served.artifact, offer)))


# -- connections that end, and memory


def test_a_connection_cut_at_any_byte_leaves_the_task_open(served: Served) -> None:
    offer = offered(served.client)
    body = update_of(served.artifact, offer)

    async def cut_everywhere() -> set[Reason]:
        headers = {"content-length": str(len(body))}
        found = set()
        for end in range(len(body) + 1):
            pieces = [piece for piece in (body[: end // 2], body[end // 2 : end]) if piece]
            answer = await served.client.send("PUT", path_of(offer), pieces, headers, cut=True)
            found.add(answer.problem.reason)
        return found

    assert served.client.run(cut_everywhere()) == {Reason.CUT_OFF}
    assert served.stored() == (0, 0)
    assert served.status.training == 1
    assert receipt(served.client.put(path_of(offer), body)).status == "accepted"


def test_unfinished_uploads_have_a_budget_which_is_given_back(
    serve: Serve, artifact: Artifact
) -> None:
    most = update_bytes(artifact.manifest)
    served = serve(goal=100, uploads_bytes=most)
    offers = [offered(served.client, device) for device in (0, 1)]
    bodies = [update_of(served.artifact, offer) for offer in offers]
    half = len(bodies[0]) // 2

    async def second_while_first_waits() -> tuple[Answer, Answer]:
        go_on = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield bodies[0][:half]
            await go_on.wait()
            yield bodies[0][half:]

        first = asyncio.create_task(
            served.client.send_put(path_of(offers[0]), slow(), len(bodies[0]))
        )
        await asyncio.sleep(0)
        second = await served.client.send_put(path_of(offers[1]), bodies[1])
        go_on.set()
        return await first, second

    first, second = served.client.run(second_while_first_waits())
    assert receipt(first).status == "accepted"
    assert second.problem.reason is Reason.BUSY
    assert second.status == 503
    assert not second.problem.permanent
    assert int(second.headers["retry-after"]) >= 1
    # Whatever becomes of an upload, its memory is given back: many of each kind fit one by one.
    for _ in range(20):
        served.client.put(path_of(offers[1]), bodies[1][:half], len(bodies[1]))
        served.client.put(path_of(offers[1]), bodies[1][:-1] + b"\xff")
        served.client.put(path_of(offers[0]), bodies[0])
    assert receipt(served.client.put(path_of(offers[1]), bodies[1])).status == "accepted"


def test_the_budget_always_has_room_for_one_update(serve: Serve) -> None:
    served = serve(goal=100, uploads_bytes=10)
    offer = offered(served.client)
    receipt(served.client.put(path_of(offer), update_of(served.artifact, offer)))


def test_reasons_that_an_upload_can_meet_say_whether_to_try_again() -> None:
    again = {reason for reason, kind in KINDS.items() if not kind.permanent}
    mended = {Reason.WRONG_TIME, Reason.TOO_MANY, Reason.TOO_SLOW}
    assert again == {Reason.CUT_OFF, Reason.BUSY, Reason.STORAGE, Reason.BUG} | mended
    assert set(KINDS) == set(Reason)
