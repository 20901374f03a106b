"""Signed requests: HTTP message signatures (RFC 9421) in one fixed form (docs/protocol.md, section 10).

The RFC lets a signer choose what is covered and in which order. Here every request covers the same
three things, and its signature is written in one way only, so that a reader compares text and parses
nothing that could mean two things::

    content-digest: sha-256=:<base64>:
    signature-input: ravan=("@method" "@path" "content-digest");created=<seconds>;keyid="<device>";
        alg="ed25519";nonce="<milliseconds>";tag="ravan-v1"
    signature: ravan=:<base64>:
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ravan_edge.signing.base64_text import from_base64
from ravan_edge.signing.keys import signed_by

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

__all__ = ["SIGNATURE_HEADERS", "RequestSignature", "device_of_key", "sign_request"]

SIGNATURE_HEADERS = ("content-digest", "signature-input", "signature")
"""What a signed request carries."""

_COVERED = '("@method" "@path" "content-digest")'
_TAG = "ravan-v1"
_ID_DIGITS = 32
_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")
_SIGNATURE = re.compile(r"ravan=:([A-Za-z0-9+/]{86}==):")
_INPUT = re.compile(
    r'ravan=\("@method" "@path" "content-digest"\)'
    rf';created=([1-9][0-9]{{0,12}});keyid="([0-9a-f]{{{_ID_DIGITS}}})"'
    rf';alg="ed25519";nonce="([1-9][0-9]{{0,15}})";tag="{_TAG}"'
)


def device_of_key(public_key: bytes) -> str:
    """The device id that belongs to a key: nobody can take another's.

    Args:
        public_key: ed25519, 32 bytes.
    """
    return hashlib.sha256(public_key).hexdigest()[:_ID_DIGITS]


@dataclass(frozen=True, slots=True)
class RequestSignature:
    """What the three headers say.

    Attributes:
        device: Whose key.
        milliseconds: When it was signed, since 1970; greater in each request of a device.
        body_sha256: Of the body, 32 bytes.
        signature: 64 bytes.
    """

    device: str
    milliseconds: int
    body_sha256: bytes
    signature: bytes

    @classmethod
    def read(cls, headers: Mapping[str, str]) -> RequestSignature:
        """From the headers of a request, by their names in lower case.

        Raises:
            ValueError: One is missing, or is not in the fixed form; says which.
        """
        digest, described, signature = (headers.get(name, "") for name in SIGNATURE_HEADERS)
        found_digest = _DIGEST.fullmatch(digest)
        found_input = _INPUT.fullmatch(described)
        found_signature = _SIGNATURE.fullmatch(signature)
        for name, found in zip(
            SIGNATURE_HEADERS, (found_digest, found_input, found_signature), strict=True
        ):
            if found is None:
                state = "is not in the form of the protocol" if headers.get(name) else "is missing"
                raise ValueError(f"the header {name} {state}")
        assert found_digest and found_input and found_signature  # noqa: S101, PT018  (said above)
        seconds, device, milliseconds = found_input.groups()
        if int(seconds) != int(milliseconds) // 1000:
            raise ValueError("the header signature-input has a nonce of another moment")
        return cls(
            device,
            int(milliseconds),
            from_base64(found_digest[1], "the header content-digest"),
            from_base64(found_signature[1], "the header signature"),
        )

    def valid(self, public_key: Ed25519PublicKey, method: str, path: str) -> bool:
        """Whether the key signed this method, path, digest and moment."""
        base = _base(method, path, self.body_sha256, self.device, self.milliseconds)
        return signed_by(public_key, self.signature, base)


def sign_request(
    key: Ed25519PrivateKey, method: str, path: str, body: bytes, milliseconds: int
) -> dict[str, str]:
    """The headers that sign a request.

    Args:
        key: The device's.
        method: In capitals.
        path: As the server sees it, from ``/v1`` on.
        body: All of it; empty where there is none.
        milliseconds: Since 1970 by the server's clock; greater than in every request before.
    """
    device = device_of_key(key.public_key().public_bytes_raw())
    digest = hashlib.sha256(body).digest()
    signature = key.sign(_base(method, path, digest, device, milliseconds))
    return {
        "content-digest": _content_digest(digest),
        "signature-input": f"ravan={_parameters(device, milliseconds)}",
        "signature": f"ravan=:{b64encode(signature).decode()}:",
    }


def _base(method: str, path: str, digest: bytes, device: str, milliseconds: int) -> bytes:
    """What is signed: RFC 9421, section 2.5."""
    return (
        f'"@method": {method}\n"@path": {path}\n"content-digest": {_content_digest(digest)}\n'
        f'"@signature-params": {_parameters(device, milliseconds)}'
    ).encode()


def _parameters(device: str, milliseconds: int) -> str:
    return (
        f'{_COVERED};created={milliseconds // 1000};keyid="{device}"'
        f';alg="ed25519";nonce="{milliseconds}";tag="{_TAG}"'
    )


def _content_digest(digest: bytes) -> str:
    """RFC 9530."""
    return f"sha-256=:{b64encode(digest).decode()}:"
