"""Bodies of uploads that are no update of their task: refused for good, and nothing is stored."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ravan_edge.artifact import Artifact, read_header, update_bytes
from ravan_edge.artifact.tensor_file import HEADS_BOUNDS
from ravan_edge.codecs import CodecName
from ravan_edge.protocol import Problem, Reason, Refusal
from ravan_server.uploads import MemoryBudget, UploadReceiver
from tests.attacks.make_attacks import all_attacks
from tests.server.conftest import Served
from tests.server.devices import (
    changed,
    encoded,
    offered,
    path_of,
    reader_of,
    tensor_file,
    update_of,
)
from tests.tiny_artifact import LAYER, TinySizes, make_tiny_artifact

DEVICES = count()
ATTACKS = [attack for attack in all_attacks() if attack.path.startswith("tensors/")]


def refused(shared: Served, make: Callable[[bytes], bytes]) -> Problem:
    """What the server says to a changed update; the right one is accepted afterwards."""
    offer = offered(shared.client, next(DEVICES))
    before = shared.stored()
    right = update_of(shared.artifact, offer)
    wrong = make(right)
    problem = shared.client.put(path_of(offer), wrong).problem
    assert problem.permanent
    assert problem.detail.isprintable()
    assert shared.stored() == before
    assert shared.client.put(path_of(offer), right).status == 200
    return problem


def full(shape: tuple[int, ...], value: float) -> NDArray[np.float32]:
    array = np.zeros(shape, np.float32)
    array.flat[-1] = value
    return array


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 64.0, -64.0, 1e30])
@pytest.mark.parametrize(("name", "shape"), [(f"{LAYER}.D", (4, 3, 3)), ("task_head.bias", (3,))])
def test_numbers_that_cannot_be_merged(
    shared: Served, name: str, shape: tuple[int, ...], value: float
) -> None:
    problem = refused(shared, lambda right: changed(right, {name: full(shape, value)}))
    assert problem.reason is Reason.BAD_NUMBERS


def test_the_largest_number_that_can_be_merged(shared: Served) -> None:
    offer = offered(shared.client, next(DEVICES))
    largest = float(np.nextafter(np.float32(64), np.float32(0)))
    numbers = {"task_head.bias": np.array([largest, -largest, -0.0], np.float32)}
    body = changed(update_of(shared.artifact, offer), numbers)
    assert shared.client.put(path_of(offer), body).status == 200


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("task", "another-task", Reason.WRONG_TASK),
        ("version", "1", Reason.WRONG_TASK),
        ("version", "9" * 18, Reason.WRONG_TASK),
        ("artifact", "0" * 64, Reason.BAD_UPDATE),
        ("format", "ravan-heads", Reason.BAD_UPDATE),
        ("schema", "2", Reason.BAD_UPDATE),
        ("encoding", "masked", Reason.BAD_UPDATE),
        ("codec", "int3", Reason.BAD_UPDATE),
        ("examples", "-1", Reason.BAD_UPDATE),
        ("steps", "9" * 19, Reason.BAD_UPDATE),
        ("steps", "\x1b[2J", Reason.BAD_UPDATE),
        ("more", "than is known", Reason.BAD_UPDATE),
    ],
)
def test_metadata_of_something_else(shared: Served, key: str, value: str, reason: Reason) -> None:
    problem = refused(shared, lambda right: changed(right, metadata={key: value}))
    assert problem.reason is reason
    assert key in problem.detail


@pytest.mark.parametrize("key", ["format", "schema", "task", "version", "artifact", "steps"])
def test_metadata_that_are_missing(shared: Served, key: str) -> None:
    def without(right: bytes) -> bytes:
        header = read_header(right, HEADS_BOUNDS)
        return right.replace(f'"{key}":"{header.metadata[key]}"'.encode(), b'"x":"y"', 1)

    # A shorter header with the old length takes bytes of the data: also refused, and also rightly.
    assert refused(shared, without).reason is Reason.BAD_UPDATE


NOTHING = {f"{LAYER}.D": np.empty(0, np.float32), f"{LAYER}.heads": np.empty(0, np.int32)}


@pytest.mark.parametrize(
    "tensors",
    [
        {f"{LAYER}.D": np.zeros((4, 3, 2), np.float32)},
        {f"{LAYER}.D": np.zeros((3, 3, 3), np.float32)},
        {f"{LAYER}.D": np.zeros(36, np.float32)},
        {f"{LAYER}.D": np.zeros((4, 3, 3), np.int32)},
        {f"{LAYER}.D": np.empty(0, np.float32)},
        {f"{LAYER}.heads": np.empty(0, np.int32)},
        {f"{LAYER}.heads": np.array([0, 1, 2], np.int32)},
        {f"{LAYER}.heads": np.array([0, 1, 1, 2], np.int32)},
        {f"{LAYER}.heads": np.array([3, 2, 1, 0], np.int32)},
        {f"{LAYER}.heads": np.array([0, 1, 2, 4], np.int32)},
        {f"{LAYER}.heads": np.array([-1, 0, 1, 2], np.int32)},
        {f"{LAYER}.heads": np.array([-(2**31), 0, 1, 2**31 - 1], np.int32)},
        {f"{LAYER}.heads": np.arange(4, dtype=np.float32)},
        {f"{LAYER}.heads": np.array([[0, 1, 2, 3]], np.int32)},
        NOTHING | {f"{LAYER}.s": np.ones(4, np.float32)},
        NOTHING | {"other.D": np.ones(1, np.float32)},
        {"task_head.bias": np.zeros(4, np.float32)},
        {"task_head.bias": np.empty(0, np.float32)},
    ],
    ids=lambda tensors: "-".join(f"{name}-{array.shape}" for name, array in tensors.items()),
)
def test_tensors_that_are_not_those_of_the_table(
    shared: Served, tensors: dict[str, NDArray[Any]]
) -> None:
    assert refused(shared, lambda right: changed(right, tensors)).reason is Reason.BAD_UPDATE


def test_an_update_of_another_artifact(shared: Served, tmp_path: Any) -> None:
    other: Artifact = make_tiny_artifact(tmp_path / "other", method="head-only")
    offer = offered(shared.client, next(DEVICES))
    problem = shared.client.put(path_of(offer), encoded(other, offer.task)).problem
    assert problem.reason is Reason.BAD_UPDATE
    assert other.digest in problem.detail
    assert shared.artifact.digest in problem.detail


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.path[8:])
def test_every_attack_of_the_collection(shared: Served, attack: Any) -> None:
    most = update_bytes(shared.artifact.manifest)
    content = attack.content[:most] if attack.large else attack.content
    problem = refused(shared, lambda _: content)
    assert problem.reason is (Reason.TOO_LARGE if len(content) > most else Reason.BAD_UPDATE)


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def overlapping(right: bytes) -> bytes:
    header = read_header(right, HEADS_BOUNDS)
    document: dict[str, object] = {"__metadata__": dict(header.metadata)}
    for name, spec in header.specs.items():
        document[name] = entry(list(spec.shape), 0, spec.end - spec.begin, spec.dtype)
    return tensor_file(document, right[header.data_offset :])


def with_a_hole(right: bytes) -> bytes:
    header = read_header(right, HEADS_BOUNDS)
    document: dict[str, object] = {"__metadata__": dict(header.metadata)}
    for name, spec in header.specs.items():
        document[name] = entry(list(spec.shape), spec.begin + 4, spec.end + 4, spec.dtype)
    return tensor_file(document, bytes(4) + right[header.data_offset :])


@pytest.mark.parametrize(
    "make",
    [
        overlapping,
        with_a_hole,
        lambda right: right + bytes(4),
        lambda right: right[:-4],
        lambda right: right[:8] + b" " + right[8:],
        lambda right: right[:8] + right[8:].replace(b"{", b"[", 1),
        lambda right: (2**64 - 1).to_bytes(8, "little") + right[8:],
        lambda right: (2**63).to_bytes(8, "little") + right[8:],
        lambda right: len(right).to_bytes(8, "little") + right[8:],
        lambda right: (len(right) - 8).to_bytes(8, "little") + right[8:],
        lambda right: bytes(8) + right[8:],
        lambda right: right[::-1],
    ],
)
def test_headers_that_lie(shared: Served, make: Callable[[bytes], bytes]) -> None:
    assert refused(shared, make).reason is Reason.BAD_UPDATE


@pytest.mark.parametrize(
    "body",
    [
        tensor_file({"a": entry([2**40, 2**40], 0, 2**48)}),
        tensor_file({"a": entry([2**40], 0, 2**42)}),
        tensor_file({"a": entry([0, 2**40, 2**40], 0, 0)}),
        tensor_file({"a": entry([1] * 9, 0, 4)}, bytes(4)),
        tensor_file(b'{"a":' * 100 + b"1" + b"}" * 100),
        tensor_file(b"{" + b"[" * 900 + b"}"),
    ],
    ids=len,
)
def test_headers_that_claim_too_much(shared: Served, body: bytes) -> None:
    assert refused(shared, lambda _: body).reason is Reason.BAD_UPDATE


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An artifact whose updates have 1.2 MB: room for a large header."""
    folder = tmp_path_factory.mktemp("wide") / "artifact"
    return make_tiny_artifact(folder, sizes=TinySizes(heads=29_000))


def feed(receiver: UploadReceiver, body: bytes) -> None:
    for start in range(0, len(body), 65_536):
        receiver.feed(body[start : start + 65_536])
        if receiver.has_header:
            receiver.check_header()


def many_names(count: int) -> bytes:
    return b"{" + b",".join(b'"%d":0' % index for index in range(count)) + b"}"


@pytest.mark.parametrize(
    "body",
    [
        # Ten million names, as much of them as fits into a header or into an update.
        tensor_file(many_names(80_000)),
        tensor_file(many_names(100_000)),
        tensor_file(b'{"a":[' + b"[]," * 60_000 + b"[]]}"),
        tensor_file(b'{"a":"' + b"\\\\" * 500_000 + b'"}'),
        tensor_file(b'{"__metadata__":{"a":"' + b"x" * 1_000_000 + b'"}}'),
        tensor_file(b'{"a":' + b"1" * 1_000_000 + b"}"),
        tensor_file(b"{" + b" " * ((1 << 20) - 2) + b"}"),
        ((1 << 20) + 1).to_bytes(8, "little") + bytes((1 << 20) + 1),
        (1_100_000).to_bytes(8, "little") + bytes(1_100_000),
    ],
    ids=["names", "more-names", "lists", "escapes", "metadata", "number", "spaces", "long", "huge"],
)
def test_a_large_header_costs_memory_in_proportion(wide: Artifact, body: bytes) -> None:
    assert len(body) <= update_bytes(wide.manifest)
    budget = MemoryBudget(len(body))
    receiver = UploadReceiver(reader_of(wide), "task", 0, CodecName.FP32, len(body), budget)
    tracemalloc.start()
    try:
        with pytest.raises(Refusal) as caught:
            feed(receiver, body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        receiver.close()
    assert caught.value.reason is Reason.BAD_UPDATE
    assert peak < 32 * len(body)
    budget.take(len(body))  # all of it is free again


def test_a_header_is_refused_before_the_data_are_waited_for(shared: Served) -> None:
    offer = offered(shared.client, next(DEVICES))
    right = update_of(shared.artifact, offer)
    header_end = read_header(right, HEADS_BOUNDS).data_offset
    wrong = right.replace(offer.task.encode(), b"x" * len(offer.task))
    pieces = [wrong[:8], wrong[8:header_end], *[wrong[header_end:]] * 3]
    answer = shared.client.put(path_of(offer), pieces, len(right))
    assert answer.problem.reason is Reason.WRONG_TASK
    assert answer.chunks_read == 2
