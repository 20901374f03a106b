"""Letting devices in and shutting them out: what these requests do to the store."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from ravan_edge.protocol import InviteDevices, Reason, Refusal
from ravan_edge.signing import device_of_key
from ravan_server.group_commit import Work
from ravan_server.rounds import AttemptState
from ravan_server.store import IdentityRow, InvitationRow, TaskState

__all__ = ["enrol", "invite", "revoke", "token_digest"]

_REVOKED = "revoked by an operator"


def token_digest(token: str) -> str:
    """What is kept of a token: who reads the store cannot use it.

    A token is drawn from 256 bits, so no salt and no slow hash are needed: nobody can try them all.
    """
    return hashlib.sha256(token.encode()).hexdigest()


def invite(work: Work, asked: InviteDevices, token: str) -> InvitationRow:
    """A new invitation."""
    identities = work.transaction.identities
    latest = identities.invitations(1)
    row = InvitationRow(
        invitation=latest[0].invitation + 1 if latest else 1,
        token_sha256=token_digest(token),
        note=asked.note,
        uses=asked.uses,
        used=0,
        made_at=work.now,
        expires_at=work.now + asked.valid_seconds,
    )
    identities.add_invitation(row)
    return row


def enrol(work: Work, token: str, public_key: str) -> IdentityRow:
    """Let a device in. The same key again is in already, whatever became of the token since.

    Raises:
        Refusal: The token is none, is used up or has expired; or the device was shut out.
    """
    identities = work.transaction.identities
    device = device_of_key(bytes.fromhex(public_key))
    known = identities.identity(device)
    if known is not None:
        if known.revoked_at is not None:
            raise Refusal(
                Reason.REVOKED, f"device {device} is shut out: ask whoever runs the server"
            )
        return known
    invitation = identities.invitation(token_digest(token))
    if invitation is None:
        raise Refusal(Reason.BAD_TOKEN, "there is no invitation with this token: ask for another")
    if work.now >= invitation.expires_at:
        raise Refusal(Reason.BAD_TOKEN, "the invitation has expired: ask for another")
    if invitation.used >= invitation.uses:
        raise Refusal(Reason.BAD_TOKEN, "the invitation is used up: ask for another")
    row = IdentityRow(
        entry=identities.last_entry() + 1,
        device=device,
        public_key=public_key,
        invitation=invitation.invitation,
        enrolled_at=work.now,
    )
    identities.save_invitation(replace(invitation, used=invitation.used + 1))
    identities.add_identity(row)
    return row


def revoke(work: Work, device: str) -> IdentityRow:
    """Shut a device out. Its task is over, and what it sent to the open attempt is not merged.

    What it sent to earlier versions stays in them. Doing it again changes nothing.

    Raises:
        Refusal: No such device is enrolled.
    """
    identities = work.transaction.identities
    row = identities.identity(device)
    if row is None:
        raise Refusal(Reason.NO_SUCH_DEVICE, f"no device {device} is enrolled")
    if row.revoked_at is not None:
        return row
    row = replace(row, revoked_at=work.now)
    identities.save_identity(row)
    if work.attempt.state is not AttemptState.OPEN:
        return row
    task = work.task_of(device)
    if task is not None and task.state is TaskState.TRAINING:
        ended = replace(task, state=TaskState.GIVEN_BACK, ended_at=work.now, failure=_REVOKED)
        work.save_task(ended)
        work.save(work.attempt.given_back())
    work.settle()  # what it sent a moment ago is among them
    for stored in work.transaction.tasks_stored(work.attempt.id):
        if stored.device == device:
            work.save_task(replace(stored, state=TaskState.UNUSED, failure=_REVOKED))
            work.save(work.attempt.withdrawn())
    return row
