"""Which artifacts a device trains: the rules of docs/artifact.md, section 11, without a device."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from ravan_edge.device.trust import TrustMemory, admit
from ravan_edge.errors import ArtifactError
from ravan_edge.signing import ArtifactStatement, SignedStatement, key_id

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number in (1, 2)]
IDS = [key_id(key.public_key()) for key in KEYS]
NOW = 1_800_000_000
DAY = 86_400


def signed(
    sequence: int = 1,
    *,
    key: int = 0,
    artifact: int = 0,
    name: str = "mails",
    issued: int = NOW,
    expires: int | None = None,
) -> SignedStatement:
    statement = ArtifactStatement(
        artifact=f"{artifact:064x}",
        name=name,
        sequence=sequence,
        issued_at=issued,
        expires_at=issued + 10 * DAY if expires is None else expires,
        public_key=KEYS[key].public_key().public_bytes_raw().hex(),
    )
    return SignedStatement(statement, IDS[key])


def admitted(
    *statements: SignedStatement | None,
    memory: TrustMemory | None = None,
    trusted: str | None = None,
    now: float = NOW,
) -> TrustMemory:
    found = memory or TrustMemory()
    for statement in statements:
        found = admit(found, statement, trusted, now, "artifact 0")
    return found


def test_without_any_key_an_unsigned_artifact_is_taken_and_leaves_nothing() -> None:
    assert admitted(None, None) == TrustMemory()


def test_the_first_key_is_kept() -> None:
    memory = admitted(None, signed())
    assert memory.key == IDS[0]
    for other in (None, signed(9, key=1)):
        with pytest.raises(ArtifactError, match=IDS[0]):
            admitted(other, memory=memory)


def test_a_key_that_is_named_counts_from_the_first_artifact_on() -> None:
    for other in (None, signed(key=1)):
        with pytest.raises(ArtifactError, match=IDS[0]):
            admitted(other, trusted=IDS[0])
    assert admitted(signed(), trusted=IDS[0]).key == IDS[0]


def test_a_key_that_is_named_takes_the_place_of_the_one_before() -> None:
    memory = admitted(signed(7))
    memory = admitted(signed(1, key=1), memory=memory, trusted=IDS[1])
    assert memory.key == IDS[1]
    with pytest.raises(ArtifactError, match="trusted is"):
        admitted(signed(8), memory=memory)
    # Numbers of the old key are not forgotten.
    with pytest.raises(ArtifactError, match="never goes back"):
        admitted(signed(6), memory=memory, trusted=IDS[0])


def test_it_ends_at_its_last_second() -> None:
    statement = signed(expires=NOW + 5)
    assert admitted(statement, now=NOW + 4.9)
    with pytest.raises(ArtifactError, match="2027-01-15 08:00:05 UTC"):
        admitted(statement, now=NOW + 5)


def test_a_clock_that_was_set_back_does_not_help() -> None:
    memory = admitted(signed(1, issued=NOW))
    old = signed(2, issued=NOW - 20 * DAY, expires=NOW - DAY)
    with pytest.raises(ArtifactError, match="counts no more"):
        admitted(old, memory=memory, now=NOW - 15 * DAY)
    assert admitted(old, now=NOW - 15 * DAY), "who has seen nothing cannot know"


def test_an_older_signature_of_the_same_artifact_does_not_turn_time_back() -> None:
    memory = admitted(signed(1, issued=NOW), signed(1, issued=NOW - DAY))
    assert memory.latest_issued_at == NOW


def test_numbers_do_not_go_back_within_a_name() -> None:
    memory = admitted(signed(3), signed(5, artifact=1))
    assert admitted(signed(5, artifact=1), memory=memory) == memory
    with pytest.raises(ArtifactError, match=r"number 4 of 'mails' .* has had number 5") as refused:
        admitted(signed(4), memory=memory)
    assert "ravan sign --sequence 6" in str(refused.value)
    with pytest.raises(ArtifactError, match="two artifacts under one number"):
        admitted(signed(5, artifact=2), memory=memory)
    other = admitted(signed(1, name="news"), memory=memory)
    assert {name: each.sequence for name, each in other.seen[IDS[0]].items()} == {
        "mails": 5,
        "news": 1,
    }


def test_a_key_cannot_fill_the_disk_with_names() -> None:
    memory = admitted(signed())
    one = memory.seen[IDS[0]]["mails"]
    full = memory.model_copy(update={"seen": {IDS[0]: {f"n{i}": one for i in range(1000)}}})
    with pytest.raises(ArtifactError, match="1,000 names"):
        admitted(signed(name="more"), memory=full)
    assert admitted(signed(2, name="n7"), memory=full)


STATEMENTS = st.builds(
    signed,
    st.integers(1, 5),
    key=st.integers(0, 1),
    artifact=st.integers(0, 2),
    name=st.sampled_from(["mails", "news"]),
    issued=st.integers(NOW - 30 * DAY, NOW + 30 * DAY),
)


@given(
    st.lists(st.tuples(st.none() | STATEMENTS, st.integers(NOW - 40 * DAY, NOW + 40 * DAY))),
    st.sampled_from([None, *IDS]),
)
def test_whatever_comes_in_whatever_order(
    offers: list[tuple[SignedStatement | None, int]], trusted: str | None
) -> None:
    """What is taken is of one key, in time, and its numbers only grow; against a list of all that was."""
    memory, taken = TrustMemory(), list[ArtifactStatement]()
    for statement, now in offers:
        said = None if statement is None else statement.statement
        try:
            after = admit(memory, statement, trusted, now, "artifact")
        except ArtifactError:
            after = None
        latest = max([now, *(before.issued_at for before in taken)])
        keys = {before.public_key for before in taken}
        if trusted is not None:
            keys = {KEYS[IDS.index(trusted)].public_key().public_bytes_raw().hex()}
        line = [before for before in taken if said and before.name == said.name]
        may = (
            not keys
            if said is None
            else (
                (not keys or said.public_key in keys)
                and latest < said.expires_at
                and all(before.sequence <= said.sequence for before in line)
                and all(
                    before.artifact == said.artifact
                    for before in line
                    if before.sequence == said.sequence
                )
            )
        )
        assert (after is not None) is may
        if after is not None:
            memory = TrustMemory.model_validate_json(after.model_dump_json())
            assert memory == after
            taken += [] if said is None else [said]
