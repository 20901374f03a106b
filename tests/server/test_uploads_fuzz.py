"""Right updates with some bytes changed: refused with a reason, or they are updates and kept as sent."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravan_edge.artifact import Artifact
from ravan_edge.codecs import CodecName
from ravan_edge.protocol import KINDS, Reason, Refusal, UpdateReader
from ravan_server.operations import CheckedUpdate
from ravan_server.uploads import MemoryBudget, UploadReceiver
from tests.server.conftest import Served
from tests.server.devices import encoded, offered, path_of, reader_of
from tests.server.reference_update import is_update

MUTATIONS = 3_000
MUTATIONS_OF_A_SOAK = 1_000_000  # of all codecs together
MUTATIONS_SENT = 300

TASK, VERSION = "task-of-the-fuzzer-0", 7
HEADS: list[list[int] | None] = [None, [1, 3], [0], []]
ODD = [
    np.array(value, "<f4").tobytes()
    for value in (np.nan, np.inf, -np.inf, 64, -64, 63.999996, -0.0, 1e-45, 3e38)
] + [np.array(value, "<i4").tobytes() for value in (-1, 4, 2**31 - 1, -(2**31))]
WORDS = [
    *(b"0 1 -1 1.0 1e0 null true NaN 4294967296 18446744073709551616".split()),
    *(b'{ } [ ] , : " {} [] \\u0000 "a":1, __metadata__ F32 I32 F64 BOOL shape'.split()),
    *(b"\x00 \xff \xed\xa0\x80 \n".split(b" ")),
]


def flip(content: bytearray, chance: random.Random) -> None:
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def other_byte(content: bytearray, chance: random.Random) -> None:
    content[chance.randrange(len(content))] = chance.randrange(256)


def other_digit(content: bytearray, chance: random.Random) -> None:
    digits = [place for place, byte in enumerate(content[:700]) if 48 <= byte <= 57]
    if digits:
        content[chance.choice(digits)] = chance.randrange(48, 58)


def odd_number(content: bytearray, chance: random.Random) -> None:
    place = len(content) - 4 * chance.randrange(1, 105)
    if place > 0:
        content[place : place + 4] = chance.choice(ODD)


def word(content: bytearray, chance: random.Random) -> None:
    place = chance.randrange(min(len(content), 700))
    found = chance.choice(WORDS)
    content[place : place + chance.choice([0, len(found)])] = found


def truncate(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content)) :]


def extend(content: bytearray, chance: random.Random) -> None:
    content += chance.randbytes(chance.choice([1, 4, 64]))


def leave_out(content: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(content))
    del content[place : place + chance.choice([1, 2, 4, 8, 36])]


def repeat(content: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(content))
    content[place:place] = content[place : place + chance.choice([1, 4, 36])]


def other_length(content: bytearray, chance: random.Random) -> None:
    length = int.from_bytes(content[:8], "little") + chance.choice(
        [-64, -1, 1, 4, 64, 2**20, 2**63]
    )
    content[:8] = (length % 2**64).to_bytes(8, "little")


def wider_header(content: bytearray, chance: random.Random) -> None:
    length = int.from_bytes(content[:8], "little")
    if length < len(content) - 8:
        spaces = chance.choice([1, 4, 64])
        content[8 + length : 8 + length] = b" " * spaces
        content[:8] = (length + spaces).to_bytes(8, "little")


KINDS_OF_CHANGE: list[Callable[[bytearray, random.Random], None]] = [
    flip,
    other_byte,
    other_digit,
    odd_number,
    word,
    truncate,
    extend,
    leave_out,
    repeat,
    other_length,
    wider_header,
]


def mutated(bases: list[bytes], chance: random.Random) -> bytes:
    """One of the right updates, changed in up to three ways, some with another's header."""
    content = bytearray(chance.choice(bases))
    if chance.random() < 0.1:
        other = chance.choice(bases)
        end, other_end = (8 + int.from_bytes(one[:8], "little") for one in (content, other))
        content[:end] = other[:other_end]
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        if content:
            chance.choice(KINDS_OF_CHANGE)(content, chance)
    return bytes(content)


@dataclass(frozen=True)
class Receiving:
    """A server's receiver, without a server."""

    artifact: Artifact
    reader: UpdateReader
    codec: CodecName
    bases: list[bytes]

    def receive(self, content: bytes, announced: int, piece: int) -> CheckedUpdate | Reason:
        """What comes of a body; its memory is free afterwards."""
        most = self.reader.largest_bytes
        budget = MemoryBudget(most)
        try:
            receiver = UploadReceiver(self.reader, TASK, VERSION, self.codec, announced, budget)
        except Refusal as refusal:
            assert announced > most or announced < 8
            return refusal.reason
        try:
            for start in range(0, len(content), piece):
                receiver.feed(content[start : start + piece])
                if receiver.has_header:
                    receiver.check_header()
            return receiver.finish()
        except Refusal as refusal:
            return refusal.reason
        finally:
            receiver.close()
            budget.take(most)

    def check(self, content: bytes, announced: int, piece: int) -> bool:
        """Whether it was taken, which it must be exactly if it is an update."""
        found = self.receive(content, announced, piece)
        right = len(content) == announced <= self.reader.largest_bytes and is_update(
            content, TASK, VERSION, self.artifact.digest, self.codec
        )
        if isinstance(found, CheckedUpdate):
            assert right, content
            assert bytes(found.content) == content
            assert (found.info.task, found.info.version) == (TASK, VERSION)
            return True
        assert not right, (found, content)
        assert KINDS[found].status < 500
        if found is Reason.CUT_OFF:
            assert len(content) < announced
        elif len(content) < announced <= self.reader.largest_bytes:
            header = {Reason.BAD_UPDATE, Reason.WRONG_TASK, Reason.WRONG_CODEC}
            assert found in header, "its header was wrong"
        return False

    def fuzz(self, count: int, seed: int) -> int:
        """How many of many changed updates were taken."""
        chance = random.Random(seed)
        taken = 0
        for _ in range(count):
            content = mutated(self.bases, chance)
            announced = len(content)
            if chance.random() < 0.05:
                announced = max(0, announced + chance.choice([-4, -1, 1, 4, 10**6]))
            taken += self.check(content, announced, chance.choice([1 << 20, 500, 97]))
        return taken


@pytest.fixture(scope="module", params=list(CodecName))
def receiving(artifact: Artifact, request: pytest.FixtureRequest) -> Receiving:
    codec: CodecName = request.param
    bases = [encoded(artifact, TASK, VERSION, heads, codec=codec) for heads in HEADS]
    return Receiving(artifact, reader_of(artifact), codec, bases)


def test_what_is_not_changed_is_taken(receiving: Receiving) -> None:
    for base in receiving.bases:
        for piece in (1, 64, 1 << 20):
            assert receiving.check(base, len(base), piece)


def test_changed_updates_are_updates_or_refused(receiving: Receiving) -> None:
    taken = receiving.fuzz(MUTATIONS, seed=0)
    assert MUTATIONS // 20 < taken < MUTATIONS // 2, "both sides are tried"


@pytest.mark.soak
def test_a_million_changed_updates_are_updates_or_refused(receiving: Receiving) -> None:
    count = MUTATIONS_OF_A_SOAK // len(CodecName)
    assert receiving.fuzz(count, seed=1) > count // 20


@given(data=st.data(), base=st.integers(0, len(HEADS) - 1))
@settings(max_examples=200)
def test_any_change_of_any_bytes(receiving: Receiving, data: st.DataObject, base: int) -> None:
    content = bytearray(receiving.bases[base])
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(begin, min(len(content), begin + 64)))
        content[begin:end] = data.draw(st.binary(max_size=16))
    announced = data.draw(st.just(len(content)) | st.integers(0, 2_000))
    receiving.check(bytes(content), announced, data.draw(st.integers(1, 2_000)))


def test_through_the_whole_server_nothing_of_a_refused_update_is_stored(shared: Served) -> None:
    chance = random.Random(2)
    offer = offered(shared.client)
    taken = 0
    for number in range(MUTATIONS_SENT):
        bases = [encoded(shared.artifact, offer.task, heads=heads) for heads in HEADS]
        content = mutated(bases, chance)
        right = len(content) <= offer.upload.most_bytes and is_update(
            content, offer.task, 0, shared.artifact.digest
        )
        before = shared.stored()
        answer = shared.client.put(path_of(offer), content)
        if right:
            assert answer.status == 200, answer.body
            (segment,) = (shared.state / "updates").iterdir()
            assert segment.read_bytes()[before[1] + -before[1] % 64 :] == content
            taken += 1
            offer = offered(shared.client, number + 1)
        else:
            assert answer.problem.status < 500
            assert answer.problem.permanent
            assert shared.stored() == before
    assert shared.status.accepted == taken > MUTATIONS_SENT // 20
