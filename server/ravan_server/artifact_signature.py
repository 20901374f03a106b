"""The signature of the artifact that a server hands out: checked at the start, watched until it ends."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property

from ravan_edge.artifact import SIGNATURE_NAME, Artifact
from ravan_edge.errors import ArtifactError
from ravan_edge.signing import (
    SignedStatement,
    check_time,
    checked_statement,
    date_text,
    signature_bytes,
)
from ravan_server.events import Event, log_event

__all__ = ["ArtifactSignature", "ExpiryWatch", "read_signature", "require_signature"]

_log = logging.getLogger(__name__)

_DAY_SECONDS = 86_400
_WARN_SECONDS = 30 * _DAY_SECONDS


@dataclass(frozen=True)
class ArtifactSignature:
    """A signature that devices can be given.

    Attributes:
        content: The bytes of ``signature.json`` when the server began.
        signed: What it says.
    """

    content: bytes
    signed: SignedStatement

    @cached_property
    def digest(self) -> str:
        """The sha256 of the content: what it is downloaded by."""
        return hashlib.sha256(self.content).hexdigest()


def read_signature(artifact: Artifact, now: float) -> ArtifactSignature | None:
    """The signature of an artifact, as far as a server can judge it; None: it is not signed.

    Args:
        artifact: What devices train.
        now: Seconds since 1970.

    Raises:
        ArtifactError: It is wrong, of another artifact, or has expired: devices would refuse it.
        StorageError: It cannot be read.
    """
    content = signature_bytes(artifact.folder)
    if content is None:
        return None
    where = str(artifact.folder / SIGNATURE_NAME)
    signed = checked_statement(content, artifact.digest, where)
    check_time(signed, now, where)
    return ArtifactSignature(content, signed)


def require_signature(artifact: Artifact) -> None:
    """Refuse an artifact that is not signed: for servers that devices of other machines can reach.

    Whether the signature is good, :func:`read_signature` says.

    Raises:
        ArtifactError: It is not.
    """
    if signature_bytes(artifact.folder) is None:
        raise ArtifactError(
            "the artifact is not signed, so devices of other machines could not tell it from "
            "another one",
            where=str(artifact.folder),
            hint="ravan keys create --out release, then ravan sign ARTIFACT --key release.key",
        )


class ExpiryWatch:
    """Says once a day in the log that a signature ends within 30 days, or has ended.

    Args:
        signature: None: there is nothing to watch.
    """

    def __init__(self, signature: ArtifactSignature | None) -> None:
        self._signed = None if signature is None else signature.signed
        self._next = 0.0

    def look(self, now: float) -> None:
        """Look at the clock.

        Args:
            now: Seconds since 1970.
        """
        if self._signed is None or now < self._next:
            return
        ends = self._signed.statement.expires_at
        if now < ends - _WARN_SECONDS:
            self._next = ends - _WARN_SECONDS
            return
        self._next = min(now + _DAY_SECONDS, ends) if now < ends else now + _DAY_SECONDS
        if self._signed.expired(now):
            log_event(
                _log,
                logging.ERROR,
                Event.SIGNATURE_ENDED,
                "the artifact's signature counts no more since %(ends)s: devices refuse it. "
                "Sign it again (ravan sign) and start the server again",
                ends=date_text(ends),
            )
        else:
            log_event(
                _log,
                logging.WARNING,
                Event.SIGNATURE_ENDING,
                "the artifact's signature counts until %(ends)s: sign it again (ravan sign) and start "
                "the server again before that",
                ends=date_text(ends),
            )
