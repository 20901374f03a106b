"""Where the server keeps what happened: attempts, tasks, versions; and who may take part."""

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
from ravan_server.store.sql import SqlStore
from ravan_server.store.store import History, Identities, Store, Transaction

__all__ = [
    "History",
    "Identities",
    "IdentityRow",
    "InvitationRow",
    "RunRow",
    "SqlStore",
    "Store",
    "StoredUpdate",
    "TaskCount",
    "TaskRow",
    "TaskState",
    "Transaction",
    "VersionRow",
]
