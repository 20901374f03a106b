"""Where the server keeps what happened: attempts, tasks, versions; and who may take part."""

from ravan_server.store.opening import open_store
from ravan_server.store.postgresql import PostgresqlStore
from ravan_server.store.rows import (
    IdentityRow,
    InvitationRow,
    RunRow,
    StoredUpdate,
    TaskCount,
    TaskRow,
    TaskState,
    VersionRow,
)
from ravan_server.store.sql_store import SqlStore
from ravan_server.store.sqlite import SqliteStore
from ravan_server.store.store import (
    MERGING,
    SCORING,
    History,
    Identities,
    Store,
    Transaction,
)

__all__ = [
    "MERGING",
    "SCORING",
    "History",
    "Identities",
    "IdentityRow",
    "InvitationRow",
    "PostgresqlStore",
    "RunRow",
    "SqlStore",
    "SqliteStore",
    "Store",
    "StoredUpdate",
    "TaskCount",
    "TaskRow",
    "TaskState",
    "Transaction",
    "VersionRow",
    "open_store",
]
