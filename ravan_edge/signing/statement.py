"""What a signature of an artifact says: docs/artifact.md, section 11."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ravan_edge.signing.envelope import Envelope, read_envelope, read_json_object, seal
from ravan_edge.signing.keys import key_id

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

__all__ = [
    "PAYLOAD_TYPE",
    "ArtifactStatement",
    "SignedStatement",
    "date_text",
    "read_statement",
    "sign_statement",
]

PAYLOAD_TYPE = "application/vnd.ravan.artifact+json"

Seconds = Annotated[int, Field(ge=0, lt=1 << 37)]  # more is a year that dates cannot show
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ArtifactStatement(BaseModel):
    """What the owner of a key says about an artifact.

    Attributes:
        artifact: The artifact digest.
        name: Of which line of artifacts it is one; sequence numbers count within it.
        sequence: Later artifacts of a line have greater ones.
        issued_at, expires_at: Seconds since 1970, UTC: from when on, and when no more.
        public_key: The 32 bytes of the key that signs, so that who never saw it can keep it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = 1
    artifact: Hex32
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    sequence: Annotated[int, Field(ge=1, lt=1 << 53)]
    issued_at: Seconds
    expires_at: Seconds
    public_key: Hex32

    @model_validator(mode="after")
    def _some_time(self) -> ArtifactStatement:
        if self.expires_at <= self.issued_at:
            raise ValueError("expires_at is not later than issued_at")
        return self

    def to_bytes(self) -> bytes:
        """The payload: sorted keys, no white space."""
        return json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement whose signature is good: by the key that it names itself.

    Whether that key is one to be trusted, and whether it is still time, is for the reader to say.
    """

    statement: ArtifactStatement
    key_id: str

    def expired(self, now: float) -> bool:
        """Whether it counts no more.

        Args:
            now: Seconds since 1970.
        """
        return now >= self.statement.expires_at

    def document(self) -> dict[str, object]:
        """For ``--json``."""
        return {"key": self.key_id, **self.statement.model_dump(exclude={"public_key"})}

    def __str__(self) -> str:
        said = self.statement
        return (
            f"{said.name!r}, number {said.sequence}, by key {self.key_id}, from "
            f"{date_text(said.issued_at)} until {date_text(said.expires_at)}"
        )


def sign_statement(statement: ArtifactStatement, key: Ed25519PrivateKey) -> bytes:
    """The bytes of ``signature.json``.

    Raises:
        ValueError: The statement names another key.
    """
    if statement.public_key != key.public_key().public_bytes_raw().hex():
        raise ValueError("the statement is of another key")
    return seal(PAYLOAD_TYPE, statement.to_bytes(), key).to_bytes()


def read_statement(content: bytes) -> SignedStatement:
    """A statement from the bytes of ``signature.json``, once its signature was found good.

    Args:
        content: From anybody.

    Raises:
        ValueError: Not in the one form, made by a newer version, or the signature is wrong.
    """
    envelope = read_envelope(content, PAYLOAD_TYPE)
    statement = _statement(envelope)
    key = _public_key(statement.public_key)
    if key is None or not envelope.signed_by(key):
        raise ValueError("the signature is wrong: it was changed, or is of another key")
    return SignedStatement(statement, key_id(key))


def date_text(seconds: int) -> str:
    """Seconds since 1970 for people.

    >>> date_text(1_800_000_000)
    '2027-01-15 08:00:00 UTC'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _statement(envelope: Envelope) -> ArtifactStatement:
    document = read_json_object(envelope.payload)
    version = document.get("schema_version")
    if type(version) is int and version > 1:
        raise ValueError(
            f"made by a newer version (schema {str(version)[:20]}, this is 1): upgrade ravan-edge"
        )
    try:
        return ArtifactStatement.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = repr(".".join(str(part) for part in first["loc"])[:100])[1:-1] or "the whole"
        raise ValueError(f"{key}: {first['msg']}") from None


def _public_key(digits: str) -> Ed25519PublicKey | None:
    """A key from its bytes; None: these are no key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(digits))
    except ValueError:
        return None
