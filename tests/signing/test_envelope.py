"""Envelopes of signed artifacts, held against securesystemslib's reader and writer of the same format."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
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


def envelope(change: Callable[[dict[str, Any]], None]) -> bytes:
    document = json.loads(SIGNED)
    change(document)
    return json.dumps(document).encode()


def payload(text: bytes) -> bytes:
    return seal(PAYLOAD_TYPE, text, KEY).to_bytes()


GOOD = statement().to_bytes()
SIG = json.loads(SIGNED)["signatures"][0]["sig"]
REFUSED = {
    "empty": (b"", "no JSON"),
    "list": (b"[]", "no JSON object"),
    "byte order mark": (b"\xef\xbb\xbf" + SIGNED, "no JSON"),
    "UTF-16": (SIGNED.decode().encode("utf-16"), "no JSON"),
    "not UTF-8": (SIGNED.replace(b"vnd", b"v\xffd"), "no JSON"),
    "deep": (b'{"payload":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "no JSON|members|has"),
    "huge": (SIGNED + b" " * ENVELOPE_MAX_BYTES, "more than 65536 bytes"),
    "two members of a name": (SIGNED.replace(b"{", b'{"payload": "",', 1), "twice"),
    "NaN": (envelope(lambda d: d.update(payload=float("nan"))), "NaN"),
    "a member more": (envelope(lambda d: d.update(more=1)), "expected payload"),
    "a member less": (envelope(lambda d: d.pop("payloadType")), "expected payload"),
    "another type": (envelope(lambda d: d.update(payloadType="text/plain")), "payloadType"),
    "no signature": (envelope(lambda d: d.update(signatures=[])), "exactly one"),
    "two signatures": (envelope(lambda d: d["signatures"].append(SIG)), "exactly one"),
    "a signature that is text": (envelope(lambda d: d.update(signatures=[SIG])), "no object"),
    "key id in capitals": (
        envelope(lambda d: d["signatures"][0].update(keyid="AB" * 32)),
        "keyid is not",
    ),
    "another key id": (envelope(lambda d: d["signatures"][0].update(keyid="0" * 64)), "is wrong"),
    "short signature": (envelope(lambda d: d["signatures"][0].update(sig="AAAA")), "3 bytes"),
    "base64 with a line break": (
        envelope(lambda d: d.update(payload=d["payload"][:8] + "\n" + d["payload"][8:])),
        "standard base64",
    ),
    "base64 of URLs": (
        envelope(lambda d: d["signatures"][0].update(sig="-_" + "A" * 84 + "==")),
        "standard base64",
    ),
    "base64 without padding": (
        envelope(lambda d: d["signatures"][0].update(sig=SIG.rstrip("="))),
        "standard base64",
    ),
    "base64 with other last bits": (
        envelope(lambda d: d["signatures"][0].update(sig="A" * 85 + "B==")),
        "standard base64",
    ),
    "base64 of letters beyond ASCII": (
        envelope(lambda d: d["signatures"][0].update(sig="é" * 86 + "==")),
        "standard base64",
    ),
    "payload that is none": (payload(b"hello"), "no JSON"),
    "payload with a member twice": (payload(GOOD.replace(b"{", b'{"name":"x",', 1)), "twice"),
    "newer payload": (
        payload(GOOD.replace(b'"schema_version":1', b'"schema_version":2')),
        "newer version",
    ),
    "schema that is text": (
        payload(GOOD.replace(b'"schema_version":1', b'"schema_version":"1"')),
        "schema_version",
    ),
    "sequence 0": (payload(GOOD.replace(b'"sequence":3', b'"sequence":0')), "sequence"),
    "sequence 3.0": (payload(GOOD.replace(b'"sequence":3', b'"sequence":3.0')), "sequence"),
    "sequence true": (payload(GOOD.replace(b'"sequence":3', b'"sequence":true')), "sequence"),
    "a number of 5,000 digits": (
        payload(GOOD.replace(b'"sequence":3', b'"sequence":' + b"3" * 5000)),
        "JSON|sequence",
    ),
    "ends before it begins": (payload(GOOD.replace(b"1831536000", b"1800000000")), "later"),
    "a name of two lines": (payload(GOOD.replace(b'"mails"', b'"mails\\n"')), "name"),
    "a name with an escape": (payload(GOOD.replace(b'"mails"', b'"\\u001b[2J"')), "name"),
    "digest in capitals": (payload(GOOD.replace(b"0123456789abcdef", b"0123456789ABCDEF")), "art"),
    "another public key": (
        payload(GOOD.replace(KEY.public_key().public_bytes_raw().hex().encode(), b"11" * 32)),
        "is wrong",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    content, says = REFUSED[name]
    with pytest.raises(ValueError, match=says) as refused:
        read_statement(content)
    assert "\x1b" not in str(refused.value), "a file must not speak to the terminal"
    assert len(str(refused.value)) < 1000


def test_what_another_key_signed_in_its_name_is_refused() -> None:
    forged = seal(PAYLOAD_TYPE, GOOD, OTHER)
    named = json.loads(forged.to_bytes())
    named["signatures"][0]["keyid"] = key_id(KEY.public_key())
    for content in (forged.to_bytes(), json.dumps(named).encode()):
        with pytest.raises(ValueError, match="is wrong"):
            read_statement(content)


def test_a_signature_of_another_type_does_not_count() -> None:
    """What this key signed for something else is no artifact's signature."""
    elsewhere = json.loads(seal("application/x", GOOD, KEY).to_bytes())
    elsewhere["payloadType"] = PAYLOAD_TYPE
    with pytest.raises(ValueError, match="is wrong"):
        read_statement(json.dumps(elsewhere).encode())
