"""Where the server keeps what happened: attempts, tasks, versions."""

from ravan_server.store.rows import RunRow, StoredUpdate, TaskRow, TaskState, VersionRow
from ravan_server.store.sql import SqlStore
from ravan_server.store.store import Store, Transaction

__all__ = [
    "RunRow",
    "SqlStore",
    "Store",
    "StoredUpdate",
    "TaskRow",
    "TaskState",
    "Transaction",
    "VersionRow",
]
