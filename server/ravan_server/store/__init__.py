"""Where the server keeps what happened: attempts, tasks, versions; and who may take part."""

from ravan_server.store.rows import (
    IdentityRow,
    InvitationRow,
    RunRow,
    StoredUpdate,
    TaskRow,
    TaskState,
    VersionRow,
)
from ravan_server.store.sql import SqlStore
from ravan_server.store.store import Identities, Store, Transaction

__all__ = [
    "Identities",
    "IdentityRow",
    "InvitationRow",
    "RunRow",
    "SqlStore",
    "Store",
    "StoredUpdate",
    "TaskRow",
    "TaskState",
    "Transaction",
    "VersionRow",
]
