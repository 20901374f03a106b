"""The view that requests look at now: who changes it, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ravan_server.group_commit import Work
from ravan_server.store import Store, Transaction
from ravan_server.view import View

__all__ = ["LatestView"]


class LatestView:
    """Follows the commits of this process, and those of others that share the store.

    Args:
        store: What it shows.
        on_change: Told each view that is another than the one before, in the thread that found it.
        on_revoked: Told each device that another process shut out.

    Raises:
        StorageError: The store cannot be read.
    """

    def __init__(
        self,
        store: Store,
        on_change: Callable[[View], None],
        on_revoked: Callable[[str], None],
    ) -> None:
        self._store = store
        self._on_change = on_change
        self._on_revoked = on_revoked
        self._lock = threading.Lock()
        with store.reading() as transaction:
            self.view = View.load(transaction)

    def at(self, transaction: Transaction, revision: int) -> View:
        """What the store held at the end of a revision.

        Args:
            transaction: The one after it; it has written nothing.
            revision: The latest that is over.
        """
        with self._lock:
            self._catch_up(transaction, revision)
            return self.view

    def committed(self, work: Work | None) -> None:
        """Follow a commit of this process; None: nobody knows whether it happened.

        Raises:
            StorageError: The store cannot be read; then the next transaction begins with that.
        """
        with self._lock:
            if work is None or not self.view.follow(work):
                with self._store.reading() as transaction:
                    self.view = View.load(transaction)
        self._on_change(self.view)

    def look(self) -> None:
        """Take over what other processes wrote.

        Raises:
            StorageError: The store cannot be read.
        """
        if not self._store.shared:
            return
        with self._lock, self._store.reading() as transaction:
            changed = self._catch_up(transaction, transaction.revision)
        if changed:
            self._on_change(self.view)

    def _catch_up(self, transaction: Transaction, revision: int) -> bool:
        """Whether there was anything. Waiting here is short: nobody holds the lock while he writes."""
        before = self.view.revision
        if revision == before:
            return False
        if self._store.shared:
            self.view = self.view.caught_up(transaction, revision)
            for device in transaction.identities.revoked_after(before):
                self._on_revoked(device)
        else:  # a commit whose end was not seen
            self.view = View.load(transaction, revision)
        return True
