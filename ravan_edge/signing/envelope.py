"""Dead Simple Signing Envelope (DSSE, version 1.0.2), in one fixed form: docs/artifact.md, section 11.

What is signed is the type and the very bytes of the payload, never its JSON, so nothing has to be
written in one way only to be signed::

    {"payload": "<base64>", "payloadType": "<type>", "signatures": [{"keyid": "...", "sig": "<base64>"}]}

    signed bytes: "DSSEv1" SP LEN(type) SP type SP LEN(payload) SP payload
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ravan_edge.signing.base64_text import from_base64
from ravan_edge.signing.keys import key_id, signed_by
from ravan_edge.strict_json import parse_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

__all__ = ["ENVELOPE_MAX_BYTES", "Envelope", "read_envelope", "read_json_object", "seal"]

ENVELOPE_MAX_BYTES = 65_536
_SIGNATURE_BYTES = 64
_KEY_ID_DIGITS = 64


@dataclass(frozen=True, slots=True)
class Envelope:
    """Something that was signed by one key. Nothing in it is true before :meth:`signed_by` says so.

    Attributes:
        payload_type: What the payload is.
        payload: Its bytes.
        key_id: Which key, says the envelope: it is not signed itself, so it only helps to find a key.
        signature: 64 bytes.
    """

    payload_type: str
    payload: bytes
    key_id: str
    signature: bytes

    def signed_by(self, key: Ed25519PublicKey) -> bool:
        """Whether this key signed type and payload, and is the one that the envelope names."""
        signed = _signed_bytes(self.payload_type, self.payload)
        return self.key_id == key_id(key) and signed_by(key, self.signature, signed)

    def to_bytes(self) -> bytes:
        """The file: sorted keys, two spaces of indent, a final newline."""
        document = {
            "payload": b64encode(self.payload).decode(),
            "payloadType": self.payload_type,
            "signatures": [{"keyid": self.key_id, "sig": b64encode(self.signature).decode()}],
        }
        return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def seal(payload_type: str, payload: bytes, key: Ed25519PrivateKey) -> Envelope:
    """Sign a payload."""
    signature = key.sign(_signed_bytes(payload_type, payload))
    return Envelope(payload_type, payload, key_id(key.public_key()), signature)


def read_envelope(content: bytes, payload_type: str) -> Envelope:
    """An envelope from its bytes; whether its signature is good is not looked at yet.

    Args:
        content: From anybody.
        payload_type: The only one that is expected.

    Raises:
        ValueError: Not in the one form; says what was found.
    """
    document = read_json_object(content)
    _check_members(document, {"payload", "payloadType", "signatures"}, "the envelope")
    found = document["payloadType"]
    if found != payload_type:
        raise ValueError(f"payloadType is {str(found)[:80]!r}, expected {payload_type!r}")
    signatures = document["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise ValueError("signatures is not a list of exactly one")
    signature = signatures[0]
    if not isinstance(signature, Mapping):
        raise ValueError("the signature is no object")  # noqa: TRY004  (a file, not an argument)
    _check_members(signature, {"keyid", "sig"}, "the signature")
    named = signature["keyid"]
    if (
        not isinstance(named, str)
        or len(named) != _KEY_ID_DIGITS
        or not set(named) <= set("0123456789abcdef")
    ):
        raise ValueError("keyid is not 64 lower-case hexadecimal digits")
    raw = _from_base64(signature["sig"], "sig")
    if len(raw) != _SIGNATURE_BYTES:
        raise ValueError(f"sig has {len(raw)} bytes, expected {_SIGNATURE_BYTES}")
    return Envelope(payload_type, _from_base64(document["payload"], "payload"), named, raw)


def read_json_object(content: bytes) -> dict[str, Any]:
    """One JSON object of at most 65,536 bytes in which no member is there twice.

    Raises:
        ValueError: It is something else.
    """
    if len(content) > ENVELOPE_MAX_BYTES:
        raise ValueError(f"more than {ENVELOPE_MAX_BYTES} bytes")
    try:
        document = parse_json(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON object: {str(error)[:100]}") from None
    if not isinstance(document, dict):
        raise ValueError("no JSON object")  # noqa: TRY004  (a file, not an argument)
    return document


def _signed_bytes(payload_type: str, payload: bytes) -> bytes:
    """The protocol's "pre-authentication encoding" (PAE): no two pairs give the same bytes."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _from_base64(text: object, name: str) -> bytes:
    if not isinstance(text, str):
        raise ValueError(f"{name} is no string")  # noqa: TRY004  (a file, not an argument)
    return from_base64(text, name)


def _check_members(document: Mapping[str, Any], expected: set[str], what: str) -> None:
    if set(document) != expected:
        found = ", ".join(sorted(str(name)[:40] for name in document)[:8])
        raise ValueError(f"{what} has {found!r}, expected {', '.join(sorted(expected))}")
