"""A server with a login in this process, and devices that sign what they say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI

from ravan_edge.artifact import Artifact
from ravan_edge.protocol import Enrolled, Invitation, ServerStatus, TaskOffer
from ravan_edge.signing import device_of_key, sign_request
from ravan_server.access.login import Login
from ravan_server.access.replay import ReplayGuard
from ravan_server.app import create_app
from tests.server.asgi import Answer, Client
from tests.server.conftest import Served, open_served

__all__ = [
    "OPERATOR",
    "Guard",
    "Guarded",
    "Signer",
    "guard",
    "guarded",
    "guarded_app",
    "offer_of",
    "open_guarded",
    "status_of",
]


OPERATOR = "the-token-of-the-operators-0123456789"
_STARTED = 1_700_000_000.0


@dataclass
class Signer:
    """A device's key, and requests in its name. The clock is the server's unless a test says otherwise."""

    client: Client
    seed: int
    now: float = _STARTED
    _calls: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.key = Ed25519PrivateKey.from_private_bytes(self.seed.to_bytes(32, "big"))
        self.public_key = self.key.public_key().public_bytes_raw().hex()
        self.device = device_of_key(bytes.fromhex(self.public_key))

    def headers(self, method: str, path: str, body: bytes) -> dict[str, str]:
        self._calls += 1
        signed = sign_request(self.key, method, path, body, int(self.now * 1000) + self._calls)
        kind = "application/octet-stream" if method == "PUT" else "application/json"
        return {"content-type": kind, "content-length": str(len(body)), **signed}

    def send(self, method: str, path: str, message: object) -> Answer:
        """A signed request; the message as JSON, or bytes as they are."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return self.raw(method, path, body, self.headers(method, path, body))

    def raw(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        return self.client.run(self.client.send(method, path, body, headers))

    def enrol(self, token: str) -> Answer:
        message = {"protocol": 1, "token": token, "public_key": self.public_key}
        return self.send("POST", "/v1/enrolment", message)

    def check_in(self, **changes: object) -> Answer:
        message = {"protocol": 1, "device": self.device, "plans": ["whole"], **changes}
        return self.send("POST", "/v1/check-in", message)


@dataclass(frozen=True)
class Guarded:
    """A server that lets in only whom it knows."""

    served: Served
    client: Client
    _seeds: list[int] = field(default_factory=lambda: [0])

    def operator(self, method: str, path: str, message: object = None) -> Answer:
        headers = {"authorization": f"Bearer {OPERATOR}", "content-type": "application/json"}
        body = b"" if message is None else json.dumps(message).encode()
        headers["content-length"] = str(len(body))
        return self.client.run(self.client.send(method, path, body, headers))

    def invite(self, **asked: object) -> Invitation:
        answer = self.operator("POST", "/v1/invitations", asked)
        assert answer.status == 200, answer.body
        return Invitation.model_validate_json(answer.body)

    def stranger(self) -> Signer:
        """A device with a key that nobody knows."""
        self._seeds[0] += 1
        return Signer(self.client, self._seeds[0], self.served.clock.now)

    def device(self) -> Signer:
        """An enrolled device."""
        signer = self.stranger()
        answer = signer.enrol(self.invite().token)
        assert Enrolled.model_validate_json(answer.body).device == signer.device
        return signer


def open_guarded(
    stack: ExitStack, artifact: Artifact, state: Path, requests: int = 1000, **rounds: float
) -> Guarded:
    """A server that ends with the stack."""
    served = open_served(stack, artifact, state, **rounds)
    return Guarded(served, stack.enter_context(Client(guarded_app(served, requests))))


def guarded_app(served: Served, requests: int = 1000) -> FastAPI:
    """The application of a server with a login, as if its process had just started."""
    keyring = served.coordinator.members.keyring
    login = Login(keyring, OPERATOR, ReplayGuard(served.clock.now), requests)
    return create_app(served.coordinator, login=login)


Guard = Callable[..., Guarded]


@pytest.fixture
def guard(artifact: Artifact, tmp_path: Path) -> Iterator[Guard]:
    """``guard(goal=3, requests=...)``: a server with a login that ends with the test."""
    with ExitStack() as stack:
        yield partial(open_guarded, stack, artifact, tmp_path / "state")


@pytest.fixture
def guarded(guard: Guard) -> Guarded:
    return guard(goal=100_000)


def offer_of(signer: Signer) -> TaskOffer:
    answer = signer.check_in()
    assert answer.status == 200, answer.body
    return TaskOffer.model_validate_json(answer.body)


def status_of(guarded: Guarded) -> ServerStatus:
    return ServerStatus.model_validate_json(guarded.operator("GET", "/v1/status").body)
