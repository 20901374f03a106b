"""The signature beside an artifact's manifest: reading it, writing it, and when it is refused."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ravan_edge.artifact import SIGNATURE_NAME, Artifact
from ravan_edge.errors import ArtifactError, UsageError
from ravan_edge.files import storage_errors, write_atomic
from ravan_edge.signing.envelope import ENVELOPE_MAX_BYTES
from ravan_edge.signing.keys import key_id
from ravan_edge.signing.statement import (
    ArtifactStatement,
    SignedStatement,
    date_text,
    read_statement,
    sign_statement,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "check_key",
    "check_time",
    "checked_statement",
    "default_name",
    "sign_artifact",
    "signature_bytes",
    "signature_of",
]

_DAY_SECONDS = 86_400
_NAME_LENGTH = 64


def signature_bytes(folder: Path) -> bytes | None:
    """The bytes of an artifact's ``signature.json``; None: there is none.

    Raises:
        ArtifactError: It is a link, no regular file, or too long.
        StorageError: It cannot be read.
    """
    path = folder / SIGNATURE_NAME
    with storage_errors(path, "read the signature"):
        try:
            status = path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError("not a regular file", where=str(path), hint="take it out")
        with path.open("rb") as file:
            content = file.read(ENVELOPE_MAX_BYTES + 1)
    if len(content) > ENVELOPE_MAX_BYTES:
        raise ArtifactError(
            f"more than {ENVELOPE_MAX_BYTES} bytes", where=str(path), hint="sign it again"
        )
    return content


def checked_statement(content: bytes, artifact: str, where: str) -> SignedStatement:
    """What a signature says, once it was found good and to be of this artifact.

    Whether its key is to be trusted and whether it is still time, is not looked at:
    :func:`check_key`, :func:`check_time`.

    Args:
        content: Of ``signature.json``, from anybody.
        artifact: The artifact digest.
        where: Named by errors.

    Raises:
        ArtifactError: It is refused; says why.
    """
    try:
        signed = read_statement(content)
    except ValueError as error:
        raise ArtifactError(
            f"the signature is refused: {error}",
            where=where,
            hint="get the artifact again from who signed it, or sign it with `ravan sign`",
        ) from None
    if signed.statement.artifact != artifact:
        raise ArtifactError(
            f"the signature is of artifact {signed.statement.artifact}, this is {artifact}",
            where=where,
            hint="get the artifact again from who signed it, or sign it with `ravan sign`",
        )
    return signed


def signature_of(artifact: Artifact) -> SignedStatement | None:
    """What the signature of an artifact says; None: it is not signed.

    Raises:
        ArtifactError: There is a signature, and it is refused.
        StorageError: It cannot be read.
    """
    content = signature_bytes(artifact.folder)
    if content is None:
        return None
    where = str(artifact.folder / SIGNATURE_NAME)
    return checked_statement(content, artifact.digest, where)


def check_key(signed: SignedStatement | None, trusted: str, where: str) -> SignedStatement:
    """Refuse what is not signed by one key.

    Args:
        signed: Found good; None: there is no signature.
        trusted: The id of that key.
        where: Named by errors.

    Returns:
        The statement.

    Raises:
        ArtifactError: There is no signature, or it is of another key.
    """
    if signed is None:
        raise ArtifactError(
            f"the artifact is not signed, expected a signature by key {trusted}",
            where=where,
            hint="ask whoever made it to sign it: ravan sign ARTIFACT --key FILE",
        )
    if signed.key_id != trusted:
        raise ArtifactError(
            f"the artifact is signed by key {signed.key_id}, trusted is {trusted}",
            where=where,
            hint="ask whoever made it which key is right; --trust FILE names another public key",
        )
    return signed


def check_time(signed: SignedStatement, now: float, where: str) -> None:
    """Refuse a signature whose time is over.

    Args:
        signed: Found good.
        now: Seconds since 1970.
        where: Named by errors.

    Raises:
        ArtifactError: It has expired.
    """
    if signed.expired(now):
        raise ArtifactError(
            f"the signature by key {signed.key_id} counts no more since "
            f"{date_text(signed.statement.expires_at)}, now it is {date_text(int(now))}",
            where=where,
            hint="sign it again (ravan sign ARTIFACT --key FILE); or this machine's clock is wrong",
        )


def default_name(artifact: Artifact) -> str:
    """What a line of artifacts is called if nobody says: after the pretrained model.

    Raises:
        UsageError: Nothing of the model's name is left.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", artifact.manifest.model.name).strip("-")
    if not name:
        raise UsageError("the model has no name that could be used", where="--name", hint="say one")
    return name[:_NAME_LENGTH]


def sign_artifact(
    artifact: Artifact,
    key: Ed25519PrivateKey,
    *,
    name: str,
    sequence: int | None,
    days: int,
    now: float,
) -> SignedStatement:
    """Write the signature of an artifact, also in place of one that is there; durable.

    Args:
        artifact: Opened, so checked.
        key: Whose signature.
        name: Of the line of artifacts.
        sequence: Its number in it. None: one more than the signature that is there says, if it is of
            this key and name; 1 if there is none or it is of others.
        days: How long it counts.
        now: Seconds since 1970.

    Raises:
        UsageError: The number is lower than the one that is there.
        ArtifactError: The signature that is there cannot be read, so what comes after it is not known.
        StorageError: It cannot be written.
    """
    path = artifact.folder / SIGNATURE_NAME
    before = _number_before(artifact, key_id(key.public_key()), name)
    if sequence is not None and sequence < before:
        raise UsageError(
            f"{sequence} is less than {before}, the number that the artifact has now: devices that "
            "saw that one would refuse it",
            where="--sequence",
            hint="leave it out, or say a greater number",
        )
    statement = ArtifactStatement(
        artifact=artifact.digest,
        name=name,
        sequence=before + 1 if sequence is None else sequence,
        issued_at=int(now),
        expires_at=int(now) + days * _DAY_SECONDS,
        public_key=key.public_key().public_bytes_raw().hex(),
    )
    content = sign_statement(statement, key)
    write_atomic(path, [content])
    return checked_statement(content, artifact.digest, str(path))


def _number_before(artifact: Artifact, key: str, name: str) -> int:
    """The number of the signature that is there; 0: none of this key and name is.

    One of an artifact that was here before counts as well: the number must go on.
    """
    content = signature_bytes(artifact.folder)
    if content is None:
        return 0
    try:
        signed = read_statement(content)
    except ValueError as error:
        raise ArtifactError(
            f"the signature that is there is refused, so its number is not known: {error}",
            where=str(artifact.folder / SIGNATURE_NAME),
            hint="delete the file, and say a greater --sequence than any before",
        ) from None
    same = (signed.key_id, signed.statement.name) == (key, name)
    return signed.statement.sequence if same else 0
