"""Messages about who may take part (docs/protocol.md, section 10)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ravan_edge.protocol.messages import Count, DeviceId, Message, Moment, Positive

__all__ = [
    "DeviceInfo",
    "Devices",
    "Enrolled",
    "Enrolment",
    "Invitation",
    "InvitationInfo",
    "Invitations",
    "InviteDevices",
]

Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22,128}$", examples=["x" * 43])]
PublicKey = Annotated[
    str,
    Field(pattern=r"^[0-9a-f]{64}$", description="ed25519, in hexadecimal.", examples=["0" * 64]),
]
Note = Annotated[str, Field(max_length=100, description="For people: whom it is for.")]


class Enrolment(Message):
    """A device asks to be let in. The request is signed with the key that it brings."""

    protocol: Annotated[int, Field(ge=1, le=1 << 16, examples=[1])]
    token: Token
    public_key: PublicKey


class Enrolled(Message):
    """The device is in, now or since an earlier request with the same key."""

    device: DeviceId
    artifact: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="What is trained here.")]


class InviteDevices(Message):
    """An operator wants a token with which devices can enrol."""

    uses: Annotated[int, Field(ge=1, le=1_000_000, description="Devices that may use it.")] = 1
    valid_seconds: Annotated[float, Field(gt=0, le=366 * 86_400, strict=False)] = 7 * 86_400.0
    note: Note = ""


class InvitationInfo(Message):
    """What became of an invitation."""

    invitation: Positive
    note: Note
    uses: Positive
    used: Count
    made_at: Moment
    expires_at: Moment


class Invitation(Message):
    """A new invitation. Its token is shown this once; the server keeps only its sha256."""

    token: Token
    info: InvitationInfo


class Invitations(Message):
    """Invitations, the latest first; at most 1,000."""

    invitations: Annotated[tuple[InvitationInfo, ...], Field(strict=False)]


class DeviceInfo(Message):
    """One enrolled device."""

    entry: Annotated[Positive, Field(description="The how-manieth that was enrolled.")]
    device: DeviceId
    invitation: Positive
    enrolled_at: Moment
    revoked_at: Moment | None = None


class Devices(Message):
    """Enrolled devices in the order in which they came; at most 1,000 in one answer."""

    devices: Annotated[tuple[DeviceInfo, ...], Field(strict=False)]
    after: Annotated[
        Count | None, Field(description="Ask with this `after` for more; null: that is all.")
    ] = None
