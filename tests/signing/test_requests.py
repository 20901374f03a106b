"""Signed requests against an RFC 9421 implementation that is not ours, and against whoever changes them."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from http_message_signatures import (
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    algorithms,
)
from http_message_signatures.exceptions import HTTPMessageSignaturesException
from hypothesis import given
from hypothesis import strategies as st

from ravan_edge.signing import RequestSignature, device_of_key, sign_request

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
DEVICE = device_of_key(PUBLIC)
NOW = 1_795_000_000_123
PATH = "/v1/tasks/O1xvJCiJjFjmCDPnXhx_hA/update"


@dataclass
class Message:
    """What the library takes for a request."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)


class Keys(HTTPSignatureKeyResolver):
    """Knows one key, of one device."""

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey:
        assert key_id == DEVICE
        return KEY.public_key()

    def resolve_private_key(self, key_id: str) -> Ed25519PrivateKey:
        assert key_id == DEVICE
        return KEY


@pytest.mark.parametrize("body", [b"", b"{}", bytes(range(256)) * 300])
@pytest.mark.parametrize("method", ["PUT", "POST", "GET"])
def test_another_implementation_of_the_rfc_takes_what_we_sign(method: str, body: bytes) -> None:
    now = time.time_ns() // 1_000_000  # it looks at the clock
    message = Message(method, f"https://example.com{PATH}")
    message.headers = sign_request(KEY, method, PATH, body, now)
    verifier = HTTPMessageVerifier(signature_algorithm=algorithms.ED25519, key_resolver=Keys())
    (found,) = verifier.verify(
        message,
        expect_tag="ravan-v1",
        expect_label="ravan",
        require_components=("@method", "@path", "content-digest"),
        body=body,
    )
    assert found.parameters["nonce"] == str(now)
    with pytest.raises(HTTPMessageSignaturesException):
        verifier.verify(message, body=body + b".")


def test_another_implementation_of_the_rfc_signs_the_same_bytes() -> None:
    body = b'{"protocol":1}'
    message = Message("POST", "https://example.com/v1/check-in")
    HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=Keys()).sign(
        message,
        key_id=DEVICE,
        created=datetime.fromtimestamp(NOW // 1000, UTC),
        nonce=str(NOW),
        tag="ravan-v1",
        label="ravan",
        covered_component_ids=("@method", "@path", "content-digest"),
        body=body,
    )
    theirs = {name.lower(): value for name, value in message.headers.items()}
    assert theirs == sign_request(KEY, "POST", "/v1/check-in", body, NOW)


def test_what_is_read_is_what_was_signed() -> None:
    body = b"some bytes"
    signature = RequestSignature.read(sign_request(KEY, "PUT", PATH, body, NOW))
    assert signature.device == DEVICE
    assert signature.milliseconds == NOW
    assert signature.body_sha256 == hashlib.sha256(body).digest()
    assert signature.valid(KEY.public_key(), "PUT", PATH)
    assert not signature.valid(KEY.public_key(), "POST", PATH)
    assert not signature.valid(KEY.public_key(), "PUT", PATH.replace("hA", "hB"))
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    assert not signature.valid(other, "PUT", PATH)


@given(st.data())
def test_one_changed_character_is_never_taken(data: st.DataObject) -> None:
    headers = sign_request(KEY, "PUT", PATH, b"some bytes", NOW)
    name = data.draw(st.sampled_from(sorted(headers)))
    at = data.draw(st.integers(0, len(headers[name]) - 1))
    sign = data.draw(st.characters(min_codepoint=0, max_codepoint=255))
    changed = headers[name][:at] + sign + headers[name][at + 1 :]
    try:
        found = RequestSignature.read(headers | {name: changed})
    except ValueError:
        return
    assert changed == headers[name] or not found.valid(KEY.public_key(), "PUT", PATH)


@given(
    st.dictionaries(st.sampled_from(["content-digest", "signature-input", "signature"]), st.text())
)
def test_nonsense_is_refused_with_the_name_of_a_header(headers: dict[str, str]) -> None:
    with pytest.raises(
        ValueError, match=r"the header (content-digest|signature-input|signature) is"
    ):
        RequestSignature.read(headers)


def test_a_nonce_of_another_second_is_refused() -> None:
    headers = sign_request(KEY, "PUT", PATH, b"", NOW)
    headers["signature-input"] = headers["signature-input"].replace(str(NOW), str(NOW + 1000))
    with pytest.raises(ValueError, match="nonce of another moment"):
        RequestSignature.read(headers)


def test_golden() -> None:
    """For readers in other languages: docs/protocol.md shows it, too. Ed25519 draws nothing."""
    headers = sign_request(KEY, "POST", "/v1/check-in", b"{}", NOW)
    assert headers == {
        "content-digest": "sha-256=:RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o=:",
        "signature-input": 'ravan=("@method" "@path" "content-digest");created=1795000000'
        ';keyid="56475aa75463474c0285df5dbf2bcab7";alg="ed25519";nonce="1795000000123"'
        ';tag="ravan-v1"',
        "signature": "ravan=:7g2gFImmgZTxRPDdIxx0kJ8ouGC16vVBuytj7GjB2eaOouGAgQ310wFzJWWzRhsFXj"
        "F+w3Edcok7K0ixiZgKDA==:",
    }
