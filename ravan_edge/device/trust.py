"""Which artifacts a device trains: docs/artifact.md, section 11, from the device's end.

::

    STATE/trust.json       the key it trusts, and the numbers and times that it has seen
    STATE/signature.json   the signature it was given last
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ravan_edge.device.cache import Fetch
from ravan_edge.errors import ArtifactError, StorageError
from ravan_edge.files import sha256_file, storage_errors, write_atomic
from ravan_edge.protocol import TaskOffer
from ravan_edge.signing import (
    ENVELOPE_MAX_BYTES,
    SignedStatement,
    check_key,
    check_time,
    checked_statement,
)

__all__ = ["ArtifactTrust", "TrustMemory", "admit"]

_MOST_NAMES = 1000

KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SeenArtifact(_Frozen):
    """The greatest number of a line of artifacts that a device has seen."""

    sequence: Annotated[int, Field(ge=1)]
    artifact: str


class TrustMemory(_Frozen):
    """What a device remembers of signatures.

    Attributes:
        key: The id of the key that it trusts; None: it has met none yet.
        latest_issued_at: Of all signatures that it took, in seconds since 1970: it is later than that.
        seen: Key id -> name -> the greatest number.
    """

    key: KeyId | None = None
    latest_issued_at: Annotated[int, Field(ge=0)] = 0
    seen: dict[KeyId, dict[str, SeenArtifact]] = {}


def admit(
    memory: TrustMemory,
    signed: SignedStatement | None,
    trusted: str | None,
    now: float,
    where: str,
) -> TrustMemory:
    """Whether a device may train an artifact, and what it has to remember first.

    Args:
        memory: Of what came before.
        signed: The artifact's signature, found good; None: it has none.
        trusted: The id of the key that the device's owner named; None: the one that is remembered.
        now: Seconds since 1970 by the device's clock.
        where: Named by errors.

    Returns:
        The memory from now on; equal to the one before if there is nothing new.

    Raises:
        ArtifactError: It may not: not signed, by another key, expired, or older than what it has seen.
    """
    key = trusted or memory.key
    if key is not None:
        signed = check_key(signed, key, where)
    if signed is None:
        return memory
    said = signed.statement
    check_time(signed, max(now, memory.latest_issued_at), where)
    names: Mapping[str, SeenArtifact] = memory.seen.get(signed.key_id, {})
    before = names.get(said.name)
    if before is not None:
        _check_number(signed, before, where)
    elif len(names) >= _MOST_NAMES:
        raise ArtifactError(
            f"key {signed.key_id} has signed artifacts of {len(names):,} names, and this is another",
            where=where,
            hint="ask whoever signs them to keep to one --name",
        )
    number = SeenArtifact(sequence=said.sequence, artifact=said.artifact)
    return TrustMemory(
        key=signed.key_id,
        latest_issued_at=max(memory.latest_issued_at, said.issued_at),
        seen={**memory.seen, signed.key_id: {**names, said.name: number}},
    )


def _check_number(signed: SignedStatement, before: SeenArtifact, where: str) -> None:
    said = signed.statement
    if said.sequence < before.sequence:
        raise ArtifactError(
            f"it is number {said.sequence} of {said.name!r} by key {signed.key_id}, and this device "
            f"has had number {before.sequence}: it never goes back",
            where=where,
            hint="the server hands out an old artifact; where that is meant, whoever signs it says "
            f"`ravan sign --sequence {before.sequence + 1}`",
        )
    if said.sequence == before.sequence and said.artifact != before.artifact:
        raise ArtifactError(
            f"number {said.sequence} of {said.name!r} by key {signed.key_id} was artifact "
            f"{before.artifact} before: two artifacts under one number",
            where=where,
            hint="ask whoever signs them to sign the later one with "
            f"`ravan sign --sequence {before.sequence + 1}`",
        )


class ArtifactTrust:
    """Decides on the artifacts of tasks, and keeps what it has to remember.

    Args:
        folder: The device's.
        trusted: The id of the key that must have signed them; None: the first one that it meets.
    """

    def __init__(self, folder: Path, trusted: str | None = None) -> None:
        self._memory_path = folder / "trust.json"
        self._signature_path = folder / "signature.json"
        self._trusted = trusted

    def check(self, offer: TaskOffer, fetch: Fetch, now: float) -> None:
        """Refuse the artifact of a task, or remember durably that it was taken.

        Nothing of the artifact but its signature is downloaded for it.

        Args:
            offer: The task.
            fetch: Downloads a blob.
            now: Seconds since 1970 by the device's clock.

        Raises:
            ArtifactError: It is refused.
            StorageError: Disk or network failed, or what the device remembers is damaged.
        """
        memory = self._memory()
        where = f"artifact {offer.artifact}"
        signed = None
        if offer.signature is not None:
            content = self._signature(offer.signature, fetch)
            signed = checked_statement(content, offer.artifact, where)
        after = admit(memory, signed, self._trusted, now, where)
        if after != memory:
            write_atomic(self._memory_path, [after.model_dump_json(indent=2).encode() + b"\n"])

    def _signature(self, digest: str, fetch: Fetch) -> bytes:
        path = self._signature_path
        if not path.exists() or sha256_file(path) != digest:
            with storage_errors(path, "write the file"):
                # What is left of another one would only spoil the download.
                path.with_name(f"{path.name}.part").unlink(missing_ok=True)
            fetch(digest, path, ENVELOPE_MAX_BYTES)
        with storage_errors(path, "read the file"):
            return path.read_bytes()

    def _memory(self) -> TrustMemory:
        path = self._memory_path
        if not path.exists():
            return TrustMemory()
        with storage_errors(path, "read the file"):
            content = path.read_bytes()
        try:
            return TrustMemory.model_validate_json(content)
        except ValidationError:
            raise StorageError(
                "the file is damaged, so which artifacts this device may train is not known",
                where=str(path),
                hint="delete it: the device then trusts the key of --trust, or the first it meets",
            ) from None
