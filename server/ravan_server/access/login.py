"""Who may ask for what: signatures of devices, the token of operators, and how often.

It stands before everything else: a request that nobody may make costs no parsing and no memory.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from enum import Enum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ravan_edge.protocol import Enrolment, Reason, Refusal
from ravan_edge.signing import RequestSignature, device_of_key
from ravan_server.access.access_log import AccessLog
from ravan_server.access.enrolment import token_digest
from ravan_server.access.keyring import Keyring
from ravan_server.access.rates import Rate
from ravan_server.access.replay import ReplayGuard
from ravan_server.http.client_address import network_of
from ravan_server.http.problems import problem_response

__all__ = [
    "SECURITY_SCHEMES",
    "Access",
    "Login",
    "Role",
    "address_of",
    "device_of",
    "role_of",
    "signed_sha256",
]

_DEVICE = "device"
_SHA256 = "body_sha256"
_MOST_FAILURES = 30
_BEARER = re.compile(r"bearer ([A-Za-z0-9_-]{1,200})", re.IGNORECASE)


class Role(Enum):
    """Who may make a request."""

    ANYBODY = "anybody"
    DEVICE = "device"
    OPERATOR = "operator"


SECURITY_SCHEMES = {
    Role.DEVICE.value: {
        "type": "apiKey",
        "in": "header",
        "name": "signature",
        "description": "With content-digest and signature-input: docs/protocol.md, section 10.",
    },
    Role.OPERATOR.value: {"type": "http", "scheme": "bearer"},
}
"""The two kinds of login, for OpenAPI."""

_DEVICE_PATHS = re.compile(r"/v1/(check-in|tasks/[^/]*/(update|failure))")
# A digest is a secret of devices and operators until somebody tells it, and content that anybody may
# keep: so caches between need no token. Enrolment brings a token and a key of its own. The dashboard
# asks for the token, so its files must come before it.
_OPEN_PATHS = re.compile(
    r"/|/dashboard/[^/]*|/(health|ready)z|/openapi\.json|/v1/enrolment|/v1/blobs/[^/]*"
)


def role_of(path: str) -> Role:
    """Who may ask for a path; what is not known is an operator's.

    >>> role_of("/v1/check-in").value, role_of("/v1/status").value, role_of("/healthz").value
    ('device', 'operator', 'anybody')
    """
    if _DEVICE_PATHS.fullmatch(path):
        return Role.DEVICE
    return Role.ANYBODY if _OPEN_PATHS.fullmatch(path) else Role.OPERATOR


def device_of(request: Request) -> str | None:
    """The device that signed a request; None: nobody had to."""
    device: str | None = request.scope.get("state", {}).get(_DEVICE)
    return device


def signed_sha256(request: Request) -> str | None:
    """The sha256 of a body that came whole, where its device signed it; None: nobody had to.

    Whoever has read the last piece of the body knows that it is right.
    """
    sha256: str | None = request.scope.get("state", {}).get(_SHA256)
    return sha256


class Login:
    """Decides who may ask. Used by one thread, the event loop's.

    Args:
        keyring: The keys of devices.
        operator_token: Of operators.
        replay: Remembers requests.
        requests_per_minute: That one device may make.
        failures_per_minute: Logins that may fail from one address, before it has to wait.
        log: Told of those that fail.
    """

    def __init__(
        self,
        keyring: Keyring,
        operator_token: str,
        replay: ReplayGuard,
        requests_per_minute: int,
        failures_per_minute: int = _MOST_FAILURES,
        log: AccessLog | None = None,
    ) -> None:
        self._keyring = keyring
        self._operator = token_digest(operator_token)
        self._replay = replay
        self._requests = Rate(requests_per_minute)
        self._failures = Rate(failures_per_minute)
        self._log = log or AccessLog()

    def device(
        self, headers: Mapping[str, str], method: str, path: str, address: str, now: float
    ) -> RequestSignature:
        """Whose request it is; it counts from now on.

        Raises:
            Refusal: Nobody's who may make it, or one too many.
        """
        signature = self.read(headers)
        if not self._keyring.known(signature.device):
            self.check_failures(address)
        try:
            key = self._keyring.key(signature.device)
        except Refusal as refusal:
            self.failed(address, f"device {signature.device}", refusal.reason)
            raise
        if not signature.valid(key, method, path):
            self.failed(address, f"device {signature.device}", Reason.BAD_SIGNATURE)
            raise Refusal(
                Reason.BAD_SIGNATURE,
                "the signature is not that of the device for this method, path, body and moment",
            )
        self._replay.take(signature.device, signature.milliseconds, now)
        if not self._requests.hit(signature.device):
            raise Refusal(
                Reason.TOO_MANY,
                f"more than {self._requests.most} requests of this device in a minute",
                retry_after_seconds=self._requests.left_seconds,
            )
        return signature

    @staticmethod
    def read(headers: Mapping[str, str]) -> RequestSignature:
        """The signature of a request, as it says.

        Raises:
            Refusal: It has none, or none of the protocol's form.
        """
        if "signature" not in headers:
            raise Refusal(
                Reason.LOGIN_NEEDED,
                "this server takes signed requests of enrolled devices: `ravan device enrol`",
            )
        try:
            return RequestSignature.read(headers)
        except ValueError as error:
            raise Refusal(Reason.BAD_SIGNATURE, str(error)) from None

    def check_enrolment(
        self, headers: Mapping[str, str], body: bytes, message: Enrolment, path: str, now: float
    ) -> None:
        """Whether whoever enrols has the private key of what he brings.

        The same request may come again: it enrols the same device, and gives nothing to anybody else.

        Raises:
            Refusal: He has not, or the time is another.
        """
        signature = self.read(headers)
        public_key = bytes.fromhex(message.public_key)
        try:
            key = Ed25519PublicKey.from_public_bytes(public_key)
        except ValueError:
            raise Refusal(Reason.BAD_MESSAGE, "public_key is no ed25519 key") from None
        if (
            signature.device != device_of_key(public_key)
            or signature.body_sha256 != hashlib.sha256(body).digest()
            or not signature.valid(key, "POST", path)
        ):
            raise Refusal(
                Reason.BAD_SIGNATURE, "an enrolment is signed with the key that it brings"
            )
        self._replay.check_time(signature.milliseconds, now)

    def operator(self, headers: Mapping[str, str], address: str) -> None:
        """Let an operator in.

        Raises:
            Refusal: It is none.
        """
        found = headers.get("authorization", "")
        if not found:
            raise Refusal(
                Reason.LOGIN_NEEDED, "only operators may ask this: send their token (--token-file)"
            )
        self.check_failures(address)
        match = _BEARER.fullmatch(found)
        digest = token_digest(match[1] if match else "")
        if not hmac.compare_digest(digest, self._operator):
            self.failed(address, "an operator", Reason.BAD_TOKEN)
            raise Refusal(Reason.BAD_TOKEN, "this is not the token of this server's operators")

    def check_failures(self, address: str) -> None:
        """Before anything that somebody could try again and again.

        Raises:
            Refusal: Too many logins from this address have failed.
        """
        if self._failures.full(address):
            self._log.locked(address)
            raise Refusal(
                Reason.TOO_MANY,
                "too many logins from this address have failed: wait a minute",
                retry_after_seconds=self._failures.left_seconds,
            )

    def failed(self, address: str, who: str, reason: Reason) -> None:
        """A login from this address has failed."""
        self._failures.hit(address)
        self._log.failed(address, who, reason)


class Access:
    """The middleware.

    Args:
        app: What is protected.
        login: Decides.
        clock: Seconds since 1970.
    """

    def __init__(self, app: ASGIApp, login: Login, clock: Callable[[], float]) -> None:
        self._app = app
        self._login = login
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, if its sender may make it."""
        if scope["type"] == "websocket":  # there is none, and one that comes must not slip through
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            watched = self._admit(scope, receive)
            await self._app(scope, watched, watched_send)
        except Refusal as refusal:
            if started:  # an answer is on its way already
                raise
            await problem_response(refusal, close=True)(scope, receive, send)

    def _admit(self, scope: Scope, receive: Receive) -> Receive:
        role, headers = role_of(scope["path"]), Headers(scope=scope)
        address = address_of(scope)
        if role is Role.ANYBODY:
            return receive
        if role is Role.OPERATOR:
            self._login.operator(headers, address)
            return receive
        signature = self._login.device(
            headers, scope["method"], scope["path"], address, self._clock()
        )
        scope.setdefault("state", {}).update(
            {_DEVICE: signature.device, _SHA256: signature.body_sha256.hex()}
        )
        return _checked_body(receive, signature.body_sha256)


def address_of(scope: Scope) -> str:
    """From where a request comes."""
    client = scope.get("client")
    return network_of(str(client[0]) if client else "")


def _checked_body(receive: Receive, sha256: bytes) -> Receive:
    """The body of a request; its last piece comes only if all of it is what was signed."""
    digest = hashlib.sha256()

    async def checked() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            digest.update(message.get("body", b""))
            if not message.get("more_body", False) and digest.digest() != sha256:
                raise Refusal(
                    Reason.BAD_SIGNATURE, "the body is not the one that the device signed"
                )
        return message

    return checked
