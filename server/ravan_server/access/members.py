"""Devices that may take part, and the invitations with which they came: for operators and for enrolment."""

from __future__ import annotations

import secrets
from concurrent.futures import Future

from ravan_edge.protocol import (
    DeviceInfo,
    Devices,
    Invitation,
    InvitationInfo,
    Invitations,
    InviteDevices,
)
from ravan_server.access.enrolment import enrol, invite, revoke
from ravan_server.access.keyring import Keyring
from ravan_server.group_commit import GroupCommit
from ravan_server.http.answers import moment
from ravan_server.store import IdentityRow, InvitationRow, Store

__all__ = ["Members"]

_TOKEN_BYTES = 32
_MOST_ROWS = 1000


class Members:
    """Who may take part.

    Args:
        store: Where they are kept.
        writer: Changes it.
    """

    def __init__(self, store: Store, writer: GroupCommit) -> None:
        self._store = store
        self._writer = writer
        self.keyring = Keyring(store)

    def invite(self, asked: InviteDevices) -> Invitation:
        """A new invitation; its token is nowhere else."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        row = self._writer.submit(lambda work: invite(work, asked, token)).result()
        return Invitation(token=token, info=_invitation_info(row))

    def enrol(self, token: str, public_key: str) -> Future[IdentityRow]:
        """Let a device in.

        Args:
            token: Of an invitation.
            public_key: ed25519, 64 hexadecimal digits; it signed the request.
        """
        promise = self._writer.submit(lambda work: enrol(work, token, public_key))
        promise.add_done_callback(self._remember)
        return promise

    def _remember(self, promise: Future[IdentityRow]) -> None:
        # Called by the writer's thread, so before any revocation that comes later.
        if not promise.cancelled() and promise.exception() is None:
            self.keyring.add(promise.result())

    def revoke(self, device: str) -> DeviceInfo:
        """Shut a device out.

        Raises:
            Refusal: No such device is enrolled.
        """
        row = self._writer.submit(lambda work: revoke(work, device)).result()
        self.keyring.forget(device)
        return _device_info(row)

    def devices(self, after: int) -> Devices:
        """Enrolled devices, from the first behind an entry on."""
        with self._store.reading() as transaction:
            rows = transaction.identities.identities(after, _MOST_ROWS)
        following = rows[-1].entry if len(rows) == _MOST_ROWS else None
        return Devices(devices=tuple(map(_device_info, rows)), after=following)

    def invitations(self) -> Invitations:
        """The latest invitations."""
        with self._store.reading() as transaction:
            rows = transaction.identities.invitations(_MOST_ROWS)
        return Invitations(invitations=tuple(map(_invitation_info, rows)))


def _device_info(row: IdentityRow) -> DeviceInfo:
    return DeviceInfo(
        entry=row.entry,
        device=row.device,
        invitation=row.invitation,
        enrolled_at=moment(row.enrolled_at),
        revoked_at=None if row.revoked_at is None else moment(row.revoked_at),
    )


def _invitation_info(row: InvitationRow) -> InvitationInfo:
    return InvitationInfo(
        invitation=row.invitation,
        note=row.note,
        uses=row.uses,
        used=row.used,
        made_at=moment(row.made_at),
        expires_at=moment(row.expires_at),
    )
