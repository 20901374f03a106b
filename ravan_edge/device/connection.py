"""Requests to a server, typed: docs/protocol.md from the other end.

One request is one request here: when to try again is the business of who calls.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError

from ravan_edge.closing import Closing
from ravan_edge.device.address import certificate_error, server_address, trusting
from ravan_edge.device.identity import DeviceKey
from ravan_edge.errors import NetworkError, ServerRefusedError
from ravan_edge.files import storage_errors, sync_folder
from ravan_edge.protocol import (
    PROTOCOL_VERSION,
    CheckIn,
    CheckInAnswer,
    ComeBack,
    DeviceFailure,
    DeviceInfo,
    Devices,
    Enrolled,
    Enrolment,
    Invitation,
    InvitationInfo,
    Invitations,
    InviteDevices,
    Problem,
    Reason,
    Receipt,
    Refusal,
    ServerStatus,
    TaskOffer,
    VersionInfo,
    Versions,
)

__all__ = ["ServerConnection", "refusals_as_errors"]

Message = TypeVar("Message", bound=BaseModel)

_ANSWER: TypeAdapter[TaskOffer | ComeBack] = TypeAdapter(CheckInAnswer)
_MOST_MESSAGE_BYTES = 1 << 20
_MOST_VERSIONS_BYTES = 1 << 29  # a run may have a million versions; 1 MiB held 4,000
_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 60.0
_RANGE_NOT_SATISFIABLE = 416
_SERVER_ERROR = 500


@contextmanager
def refusals_as_errors() -> Iterator[None]:
    """For commands: a refusal ends them with exit code 6, or with 9 where trying again may help."""
    try:
        yield
    except Refusal as refusal:
        if refusal.problem.permanent:
            # What to do stands in the server's own words.
            raise ServerRefusedError(f"the server refused: {refusal.detail}") from None
        raise NetworkError(
            f"the server cannot now: {refusal.detail}", hint="try again later"
        ) from None


class ServerConnection(Closing):
    """A server, as a device or an operator sees it.

    Every method raises :class:`Refusal` when the server refuses, and NetworkError when it cannot be
    reached or answers nonsense.

    Args:
        url: ``https://HOST:PORT``; ``http`` only to this machine.
        key: The device's, where the server takes only enrolled ones.
        token: The operators', for their requests.
        transport: Instead of the network, for tests.
        ca: A PEM file of certificate authorities that are trusted besides the system's.

    Raises:
        UsageError: The address is none, it is one that others could read along, or the file holds no
            certificate.
        StorageError: The file cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        key: DeviceKey | None = None,
        token: str | None = None,
        ca: Path | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._key = key
        self.device = None if key is None else key.device
        self._operator = {} if token is None else {"authorization": f"Bearer {token}"}
        self.url = server_address(url)
        self._client = httpx2.Client(
            base_url=self.url,
            transport=transport,
            verify=True if ca is None else trusting(ca),
            timeout=httpx2.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS),
            # Bytes are compared with digests and counted as they come: nothing between may pack them.
            headers={"accept-encoding": "identity"},
            # A device talks to its server and to nobody that an environment names.
            trust_env=False,
        )

    def close(self) -> None:
        """No connection is open after this."""
        self._client.close()

    def signed_by(self, key: DeviceKey) -> ServerConnection:
        """The same connection in the name of a device; it is closed with this one."""
        other = copy.copy(self)
        other._key, other.device, other._operator = key, key.device, {}
        return other

    def check_in(self, message: CheckIn) -> TaskOffer | ComeBack:
        """Offer work."""
        content = self._request("POST", "/v1/check-in", _json(message))
        return self._parse(_ANSWER.validate_json, content)

    def upload(self, task: str, content: bytes) -> Receipt:
        """Send the update of a task; doing it again is harmless."""
        answer = self._request(
            "PUT", f"/v1/tasks/{task}/update", content, "application/octet-stream"
        )
        return self._parse(Receipt.model_validate_json, answer)

    def give_back(self, task: str, failure: DeviceFailure) -> None:
        """Say that a task cannot be done; saying it twice is harmless."""
        self._request("POST", f"/v1/tasks/{task}/failure", _json(failure))

    def enrol(self, token: str) -> Enrolled:
        """Ask to be let in; asking again with the same key is harmless."""
        if self._key is None:
            raise ValueError("a device enrols with a key")
        message = Enrolment(protocol=PROTOCOL_VERSION, token=token, public_key=self._key.public_key)
        return self._parse(
            Enrolled.model_validate_json, self._request("POST", "/v1/enrolment", _json(message))
        )

    # -- operators

    def devices(self, after: int = 0) -> Devices:
        """Enrolled devices, at most 1,000 behind the entry ``after``."""
        content = self._request("GET", f"/v1/devices?after={after}")
        return self._parse(Devices.model_validate_json, content)

    def revoke(self, device: str) -> DeviceInfo:
        """Shut a device out."""
        content = self._request("POST", f"/v1/devices/{device}/revoke")
        return self._parse(DeviceInfo.model_validate_json, content)

    def invitations(self) -> tuple[InvitationInfo, ...]:
        """The latest invitations."""
        content = self._request("GET", "/v1/invitations")
        return self._parse(Invitations.model_validate_json, content).invitations

    def invite(self, asked: InviteDevices) -> Invitation:
        """A token with which devices can enrol."""
        content = self._request("POST", "/v1/invitations", _json(asked))
        return self._parse(Invitation.model_validate_json, content)

    def status(self) -> ServerStatus:
        """Where the rounds stand."""
        return self._parse(ServerStatus.model_validate_json, self._request("GET", "/v1/status"))

    def versions(self) -> tuple[VersionInfo, ...]:
        """All versions of the heads, the latest first."""
        content = self._request("GET", "/v1/versions", most_bytes=_MOST_VERSIONS_BYTES)
        return self._parse(Versions.model_validate_json, content).versions

    def roll_back(self, version: int) -> VersionInfo:
        """Make an older version's heads the latest again."""
        content = self._request("POST", f"/v1/versions/{version}/rollback")
        return self._parse(VersionInfo.model_validate_json, content)

    def download(self, digest: str, path: Path, most_bytes: int) -> None:
        """Get a blob into a file, which is there only once it is whole, checked and durable.

        What an interrupted download left beside it (``.part``) is gone on with.

        Args:
            digest: Its sha256.
            path: Where to put it; the folder exists.
            most_bytes: A longer one is refused.

        Raises:
            NetworkError: The network failed, or the content is not what its digest says.
            StorageError: The disk failed.
        """
        part = path.with_name(f"{path.name}.part")
        with storage_errors(part, "write the file"), part.open("ab") as file:
            began = file.tell()
            headers = {"range": f"bytes={began}-", "if-range": f'"{digest}"'} if began else {}
            with (
                self._network(),
                self._client.stream("GET", f"/v1/blobs/{digest}", headers=headers) as answer,
            ):
                received = began
                if began and answer.status_code == _RANGE_NOT_SATISFIABLE:
                    chunks: Iterator[bytes] = iter(
                        ()
                    )  # nothing is missing, or it is something else
                else:
                    self._refuse(answer)
                    chunks = answer.iter_raw()
                    if answer.status_code != httpx2.codes.PARTIAL_CONTENT:
                        file.truncate(0)
                        received = 0
                for chunk in chunks:
                    received += len(chunk)
                    if received > most_bytes:
                        break
                    file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if received > most_bytes or _sha256(part) != digest:
            with storage_errors(part, "delete the file"):
                part.unlink()
            raise NetworkError(
                f"what the server sent as {digest} is something else, or too long",
                where=self.url,
                hint="try again; if it stays so, something between changes what is sent",
            )
        with storage_errors(path, "name the file"):
            part.replace(path)
            sync_folder(path.parent)

    def _request(
        self,
        method: str,
        path: str,
        content: bytes = b"",
        kind: str = "application/json",
        *,
        most_bytes: int = _MOST_MESSAGE_BYTES,
    ) -> bytes:
        headers = {"content-type": kind, **self._operator}
        body = None if method == "GET" else content
        if self._key is None:
            with self._sent(method, path, headers, body) as answer:
                self._refuse(answer)
                return self._body(answer, most_bytes)
        for is_last in (False, True):
            signed = headers | self._key.sign(method, path, content)
            with self._sent(method, path, signed, body) as answer:
                try:
                    self._refuse(answer)
                except Refusal as refusal:
                    if refusal.reason is not Reason.WRONG_TIME or is_last:
                        raise
                    self._key.hear_time(answer.headers)  # and sign it again
                    continue
                return self._body(answer, most_bytes)
        raise AssertionError("the last try returns or raises")

    @contextmanager
    def _sent(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None
    ) -> Iterator[httpx2.Response]:
        with (
            self._network(),
            self._client.stream(method, path, headers=headers, content=body) as answer,
        ):
            yield answer

    def _refuse(self, answer: httpx2.Response) -> None:
        """Raise what a server says instead of an answer."""
        if answer.is_success:
            return
        try:
            problem = Problem.model_validate_json(self._body(answer))
        except ValidationError:
            if answer.status_code >= _SERVER_ERROR:
                raise Refusal(Reason.BUSY, f"status {answer.status_code}") from None
            raise self._nonsense(f"status {answer.status_code} without a reason") from None
        detail = _printable(problem.detail)
        raise Refusal(problem.reason, detail, retry_after_seconds=problem.retry_after_seconds)

    def _body(self, answer: httpx2.Response, most_bytes: int = _MOST_MESSAGE_BYTES) -> bytes:
        content = bytearray()
        for chunk in answer.iter_raw():
            content += chunk
            if len(content) > most_bytes:
                raise self._nonsense("an answer without end")
        return bytes(content)

    def _parse(self, parse: Callable[[bytes], Message], content: bytes) -> Message:
        try:
            return parse(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise self._nonsense(f"{place}: {first['msg']}") from None

    def _nonsense(self, found: str) -> NetworkError:
        return NetworkError(
            f"the answer is not as the protocol says: {_printable(found[:200])}",
            where=self.url,
            hint="check that a server of ravan-edge of this version runs there",
        )

    @contextmanager
    def _network(self) -> Iterator[None]:
        try:
            yield
        except httpx2.TransportError as error:
            untrusted = certificate_error(error)
            if untrusted is not None:
                raise NetworkError(
                    f"the server's certificate is not trusted: {untrusted.verify_message}",
                    where=self.url,
                    hint="check the address; --ca FILE trusts an authority of your own",
                ) from error
            raise NetworkError(
                f"the server cannot be reached: {str(error) or type(error).__name__}",
                where=self.url,
                hint="check the address, http:// or https://, and that the server runs",
            ) from error


def _json(message: BaseModel) -> bytes:
    return message.model_dump_json().encode()


def _printable(text: str) -> str:
    """What a server wrote, so that no terminal obeys it."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def _sha256(path: Path) -> str:
    with storage_errors(path, "read the file"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
