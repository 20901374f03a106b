"""The tables."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    literal_column,
)

__all__ = [
    "OUT",
    "SCHEMA_VERSION",
    "attempts",
    "devices",
    "identities",
    "invitations",
    "metadata",
    "run",
    "tasks",
    "versions",
    "writes",
]

SCHEMA_VERSION = 4

metadata = MetaData()


class Words(TypeDecorator[str]):
    """What people and devices write. PostgreSQL cannot store the character 0, so no store does."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        """With the character that stands for what cannot be shown instead."""
        return None if value is None else value.replace("\0", "\N{REPLACEMENT CHARACTER}")


run = Table(
    "run",
    metadata,
    Column("id", Integer, primary_key=True),  # always 1
    Column("schema_version", Integer, nullable=False),
    Column("artifact", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
)

# Apart from the run, since it is there before one begins. Who writes changes its only row first, and
# PostgreSQL lets nobody else do so until that transaction has ended: one writer at a time.
writes = Table(
    "writes",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("revision", BigInteger, nullable=False),
    Column("owner", String(32), nullable=False),  # the process that may; others are told so
    Column("recovered", BigInteger, nullable=False),  # the revision of the latest recovery
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("round", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("settings", Text, nullable=False),
    Column("seed", String(20), nullable=False),  # 64 bits without a sign
    Column("opened_at", Float, nullable=False),
    Column("deadline_at", Float),
    Column("ended_at", Float),
    Column("training", Integer, nullable=False),
    Column("accepted", Integer, nullable=False),
    UniqueConstraint("round", "number"),
)

devices = Table(
    "devices",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("device", String(64), nullable=False, unique=True),
)

tasks = Table(
    "tasks",
    metadata,
    Column("task", String(64), primary_key=True),
    Column("attempt", Integer, ForeignKey("attempts.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("device", String(64), nullable=False),
    Column("number", Integer, nullable=False),
    Column("plan", String(32), nullable=False),
    Column("heads_to_train", Integer),
    Column("state", String(16), nullable=False),
    Column("assigned_at", Float, nullable=False),
    Column("deadline_at", Float),
    Column("ended_at", Float),
    Column("failure", Words),
    Column("sha256", String(64)),
    Column("segment", String(64)),
    Column("offset", BigInteger),
    Column("bytes", BigInteger),
    Column("examples", BigInteger),
    Column("steps", BigInteger),
    Column("counted_in", Integer),
    Column("count", BigInteger),
    Column("factor", BigInteger),
    Column("revision", BigInteger),  # that wrote it last, where several processes serve a run
    UniqueConstraint("attempt", "device"),
    Index("tasks_of_attempt", "attempt", "assigned_at"),
    Index("tasks_counted_in", "counted_in"),
)
# Few of many rows, which every new version asks for: an index of those rows only.
OUT = tasks.c.state == literal_column("'training'")
Index("tasks_out", tasks.c.device, sqlite_where=OUT, postgresql_where=OUT)
# What another process wrote a moment ago. One that has the run for itself writes none: it pays nothing.
_STAMPED = tasks.c.revision.is_not(None)
Index("tasks_written", tasks.c.revision, sqlite_where=_STAMPED, postgresql_where=_STAMPED)

versions = Table(
    "versions",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("heads", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("attempt", Integer, ForeignKey("attempts.id")),
    Column("updates", Integer, nullable=False),
    Column("made_at", Float, nullable=False),
    Column("copy_of", Integer),
    Column("deleted", Boolean, nullable=False),
    Column("scores", Text),
    Column("heads_kept", Integer),
    Column("moments", String(64)),
)

invitations = Table(
    "invitations",
    metadata,
    Column("invitation", Integer, primary_key=True, autoincrement=False),
    Column("token_sha256", String(64), nullable=False, unique=True),
    Column("note", Words, nullable=False),
    Column("uses", Integer, nullable=False),
    Column("used", Integer, nullable=False),
    Column("made_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)

identities = Table(
    "identities",
    metadata,
    Column("entry", Integer, primary_key=True, autoincrement=False),
    Column("device", String(64), nullable=False, unique=True),
    Column("public_key", String(64), nullable=False),
    Column("invitation", Integer, ForeignKey("invitations.invitation"), nullable=False),
    Column("enrolled_at", Float, nullable=False),
    Column("revoked_at", Float),
    Column("revoked_in", BigInteger),  # the revision that shut it out
)
_SHUT_OUT = identities.c.revoked_in.is_not(None)
Index(
    "identities_revoked",
    identities.c.revoked_in,
    sqlite_where=_SHUT_OUT,
    postgresql_where=_SHUT_OUT,
)
