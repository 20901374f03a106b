"""Invitations and devices on a database that SQLAlchemy speaks to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from ravan_server.store import schema
from ravan_server.store.rows import IdentityRow, InvitationRow

__all__ = ["SqlIdentities"]


class SqlIdentities:
    """:class:`ravan_server.store.Identities` on one connection."""

    def __init__(self, connection: Connection, revision: int | None = None) -> None:
        self._connection = connection
        self._revision = revision

    def invitation(self, token_sha256: str) -> InvitationRow | None:
        """An invitation by the digest of its token."""
        table = schema.invitations
        found = (
            self._connection.execute(select(table).where(table.c.token_sha256 == token_sha256))
            .mappings()
            .first()
        )
        return None if found is None else InvitationRow(**found)

    def invitations(self, most: int) -> Sequence[InvitationRow]:
        """The latest invitations, the latest first."""
        table = schema.invitations
        statement = select(table).order_by(table.c.invitation.desc()).limit(most)
        return [InvitationRow(**row) for row in self._connection.execute(statement).mappings()]

    def add_invitation(self, row: InvitationRow) -> None:
        """A new invitation; its number is one more than the latest."""
        self._connection.execute(insert(schema.invitations), asdict(row))

    def save_invitation(self, row: InvitationRow) -> None:
        """An invitation that is there, changed."""
        table = schema.invitations
        self._connection.execute(
            update(table).where(table.c.invitation == row.invitation).values(asdict(row))
        )

    def identity(self, device: str) -> IdentityRow | None:
        """An enrolled device."""
        table = schema.identities
        found = (
            self._connection.execute(select(table).where(table.c.device == device))
            .mappings()
            .first()
        )
        return None if found is None else _identity(found)

    def revoked_after(self, revision: int) -> Sequence[str]:
        """Devices that later transactions shut out."""
        table = schema.identities
        return list(
            self._connection.scalars(select(table.c.device).where(table.c.revoked_in > revision))
        )

    def identities(self, after: int, most: int) -> Sequence[IdentityRow]:
        """Enrolled devices behind an entry, ascending."""
        table = schema.identities
        statement = select(table).where(table.c.entry > after).order_by(table.c.entry).limit(most)
        return [_identity(row) for row in self._connection.execute(statement).mappings()]

    def latest_keys(self, most: int) -> Sequence[tuple[str, str]]:
        """Devices that are not shut out and their keys, the latest first."""
        table = schema.identities
        statement = (
            select(table.c.device, table.c.public_key)
            .where(table.c.revoked_at.is_(None))
            .order_by(table.c.entry.desc())
            .limit(most)
        )
        return [(row.device, row.public_key) for row in self._connection.execute(statement)]

    def last_entry(self) -> int:
        """Of the device that enrolled last; 0: none did."""
        return int(self._connection.scalar(select(func.max(schema.identities.c.entry))) or 0)

    def add_identity(self, row: IdentityRow) -> None:
        """A new device."""
        self._connection.execute(insert(schema.identities), asdict(row))

    def save_identity(self, row: IdentityRow) -> None:
        """A device that is there, changed."""
        table = schema.identities
        values = asdict(row)
        if row.revoked_at is not None:
            values["revoked_in"] = self._revision
        self._connection.execute(update(table).where(table.c.entry == row.entry).values(values))


def _identity(found: RowMapping) -> IdentityRow:
    return IdentityRow(**{name: found[name] for name in IdentityRow.__dataclass_fields__})
