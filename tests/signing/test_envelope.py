"""Envelopes of signed artifacts, held against securesystemslib's reader and writer of the same format.

Files for each abuse that was thought of are in ``tests/attacks``.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib import dsse
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from ravan_edge.signing import (
    ENVELOPE_MAX_BYTES,
    ArtifactStatement,
    date_text,
    key_id,
    read_statement,
    sign_statement,
)
from ravan_edge.signing.envelope import read_envelope, seal
from ravan_edge.signing.statement import PAYLOAD_TYPE

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
TYPE = "application/x"


def statement(**changes: Any) -> ArtifactStatement:
    values: dict[str, Any] = {
        "artifact": "0123456789abcdef" * 4,
        "name": "mails",
        "sequence": 3,
        "issued_at": 1_800_000_000,
        "expires_at": 1_831_536_000,
        "public_key": KEY.public_key().public_bytes_raw().hex(),
    }
    return ArtifactStatement.model_validate(values | changes)


SIGNED = sign_statement(statement(), KEY)


def their_key(key: Ed25519PrivateKey) -> SSlibKey:
    found = SSlibKey.from_crypto(key.public_key(), keyid=key_id(key.public_key()))
    assert found.scheme == "ed25519"
    return found


@given(st.binary(max_size=300), st.text(max_size=40))
def test_theirs_reads_ours(payload: bytes, kind: str) -> None:
    document = json.loads(seal(kind, payload, KEY).to_bytes())
    theirs = dsse.Envelope.from_dict(document)
    assert (theirs.payload, theirs.payload_type) == (payload, kind)
    assert theirs.verify([their_key(KEY)], 1)
    stranger = their_key(OTHER)
    stranger.keyid = key_id(KEY.public_key())
    with pytest.raises(VerificationError):
        theirs.verify([stranger], 1)


@given(st.binary(max_size=300))
def test_ours_reads_theirs(payload: bytes) -> None:
    theirs = dsse.Envelope(payload, TYPE, {})
    theirs.sign(CryptoSigner(KEY, their_key(KEY)))
    read = read_envelope(json.dumps(theirs.to_dict()).encode(), TYPE)
    assert read.payload == payload
    assert read.signed_by(KEY.public_key())
    assert not read.signed_by(OTHER.public_key())
    # Deterministic, as RFC 8032 says: both write the same.
    assert read == seal(TYPE, payload, KEY)


def test_the_example_of_the_specification() -> None:
    """The "pre-authentication encoding" of the specification's page, written out."""
    envelope = seal("http://example.com/HelloWorld", b"hello world", KEY)
    KEY.public_key().verify(
        envelope.signature, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_a_statement_comes_back() -> None:
    read = read_statement(SIGNED)
    assert read.statement == statement()
    assert read.key_id == key_id(KEY.public_key())
    assert not read.expired(1_831_535_999.9)
    assert read.expired(1_831_536_000)
    assert read.document()["key"] == read.key_id
    assert f"'mails', number 3, by key {read.key_id}" in str(read)
    assert date_text(statement().expires_at) in str(read)
    assert sign_statement(read.statement, KEY) == SIGNED
    with pytest.raises(ValueError, match="another key"):
        sign_statement(statement(), OTHER)


@given(st.data())
def test_every_flipped_bit_is_refused(data: st.DataObject) -> None:
    """Of what is signed, of the signature and of the key's name: everything that is not white space."""
    document = json.loads(SIGNED)
    signature = document["signatures"][0]
    part = data.draw(st.sampled_from(["payload", "payloadType", "sig", "keyid"]))
    holder = signature if part in signature else document
    raw = part in {"payload", "sig"}
    content = bytearray(b64decode(holder[part]) if raw else holder[part].encode())
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    holder[part] = b64encode(content).decode() if raw else content.decode("latin-1")
    with pytest.raises(ValueError, match=r"."):
        read_statement(json.dumps(document).encode())


@given(st.data())
def test_every_changed_byte_of_the_file_is_refused_or_means_the_same(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(SIGNED) - 1))
    content = bytearray(SIGNED)
    content[place] = data.draw(st.integers(0, 255))
    try:
        read = read_statement(bytes(content))
    except ValueError:
        return
    assert read == read_statement(SIGNED)  # only white space was changed
    assert SIGNED[place : place + 1].isspace() or bytes(content) == SIGNED


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_what_is_no_envelope_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_statement(content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.sampled_from(["payload", "payloadType", "signatures", "keyid", "sig", "more"]), JSON)
def test_any_other_value_is_refused(part: str, value: object) -> None:
    document = json.loads(SIGNED)
    signature = document["signatures"][0]
    holder = signature if part in signature else document
    if part in holder and holder[part] == value:
        return
    holder[part] = value
    with pytest.raises(ValueError, match=r"."):
        read_statement(json.dumps(document).encode())


@given(st.sampled_from(sorted(ArtifactStatement.model_fields)) | st.text(max_size=8), JSON)
def test_any_other_value_of_a_payload_is_refused_or_kept_as_it_is(name: str, value: object) -> None:
    """Signed by the right key, but perhaps by a program that writes something else."""
    document = statement().model_dump() | {name: value}
    content = seal(PAYLOAD_TYPE, json.dumps(document).encode(), KEY).to_bytes()
    try:
        read = read_statement(content)
    except ValueError:
        return
    assert json.loads(read.statement.to_bytes()) == document


def test_what_another_key_signed_in_its_name_is_refused() -> None:
    forged = seal(PAYLOAD_TYPE, statement().to_bytes(), OTHER)
    named = json.loads(forged.to_bytes())
    named["signatures"][0]["keyid"] = key_id(KEY.public_key())
    for content in (forged.to_bytes(), json.dumps(named).encode()):
        with pytest.raises(ValueError, match="is wrong"):
            read_statement(content)


def test_a_signature_of_another_type_does_not_count() -> None:
    """What this key signed for something else is no artifact's signature."""
    elsewhere = json.loads(seal("application/x", statement().to_bytes(), KEY).to_bytes())
    elsewhere["payloadType"] = PAYLOAD_TYPE
    with pytest.raises(ValueError, match="is wrong"):
        read_statement(json.dumps(elsewhere).encode())


def test_the_bound_holds_for_bytes_that_were_never_a_file() -> None:
    most = SIGNED + b" " * (ENVELOPE_MAX_BYTES - len(SIGNED))
    assert read_statement(most) == read_statement(SIGNED)
    with pytest.raises(ValueError, match="more than 65536 bytes"):
        read_statement(most + b" ")
