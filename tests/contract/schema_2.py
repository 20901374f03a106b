"""The tables as schema 2 had them, before rounds could be asynchronous: kept to test the way from there."""

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
    UniqueConstraint,
)

__all__ = [
    "SCHEMA_VERSION",
    "attempts",
    "devices",
    "identities",
    "invitations",
    "metadata",
    "run",
    "tasks",
    "versions",
]

SCHEMA_VERSION = 2

metadata = MetaData()

run = Table(
    "run",
    metadata,
    Column("id", Integer, primary_key=True),  # always 1
    Column("schema_version", Integer, nullable=False),
    Column("artifact", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
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
    Column("device", String(64), nullable=False),
    Column("number", Integer, nullable=False),
    Column("plan", String(32), nullable=False),
    Column("heads_to_train", Integer),
    Column("state", String(16), nullable=False),
    Column("assigned_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("failure", Text),
    Column("sha256", String(64)),
    Column("segment", String(64)),
    Column("offset", BigInteger),
    Column("bytes", BigInteger),
    Column("examples", BigInteger),
    Column("steps", BigInteger),
    Column("weight", BigInteger),
    UniqueConstraint("attempt", "device"),
    Index("tasks_of_attempt", "attempt", "assigned_at"),
)

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
)

invitations = Table(
    "invitations",
    metadata,
    Column("invitation", Integer, primary_key=True, autoincrement=False),
    Column("token_sha256", String(64), nullable=False, unique=True),
    Column("note", Text, nullable=False),
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
)
