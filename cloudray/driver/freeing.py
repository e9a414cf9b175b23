"""Giving back what nothing names, and finding room for what is new."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from cloudray.driver.following import Following
from cloudray.driver.lifetimes import Lifetimes
from cloudray.exceptions import ObjectStoreFullError
from cloudray.store import Delete, Put, Store, StoreFullError
from cloudray.store.patience import write_patiently

#: How often is looked, while nothing else happens, for what nothing names any more.
_FREE_S = 0.05
#: That takes at most this share of a CPU.
_SHARE = 0.02
#: Journals stay for so many leases after nothing names them: somebody may be about to look.
_FORGET_LEASES = 2


class Freeing:
    """Removes what `lifetimes` lets go of; without it, batches are only forgotten here.

    `listen(seconds)` takes in what agents say meanwhile.
    """

    def __init__(
        self,
        store: Store,
        following: Following,
        lifetimes: Lifetimes | None,
        lock: threading.RLock,
        lease_s: float,
        listen: Callable[[float], None],
    ) -> None:
        self._store = store
        self._following = following
        self._lifetimes = lifetimes
        self._lock = lock
        self._patience_s = _FORGET_LEASES * lease_s
        self._listen = listen
        self._freed_s = self._cost_s = 0.0
        #: the driver is leaving: nobody waits any more
        self.closed = False

    @property
    def due(self) -> bool:
        """Whether there may be something to do."""
        if self._following.has_unused:
            return True
        lifetimes = self._lifetimes
        if lifetimes is None or not lifetimes.restless:
            return False
        return time.monotonic() - self._freed_s > max(_FREE_S, self._cost_s / _SHARE)

    def free(self, *, batches_only: bool = False) -> None:
        """Forget batches that no ref leads to, and remove what nothing names.

        `batches_only`: without looking for single values of batches, which takes time where there
        are many.
        """
        lifetimes = self._lifetimes
        self._freed_s = time.monotonic()
        with self._lock:
            self._following.drop_unused()
            if lifetimes is None:
                return
            if not batches_only:
                self._free_values(lifetimes)
                self._cost_s = time.monotonic() - self._freed_s
            keys = lifetimes.take_free(self._freed_s, self._patience_s)
        if keys:
            self._store.perform(Delete(keys))

    def _free_values(self, lifetimes: Lifetimes) -> None:
        for batch in lifetimes.with_objects:
            anchor = self._following.existing_anchor(batch)
            if anchor is not None and anchor.gone:
                lifetimes.free_values(batch, anchor.gone.copy() - anchor.again)

    def write(self, put: Put) -> None:
        """Write a value, waiting for room while tasks or executors may still let go of some.

        Raises `ObjectStoreFullError` when there is none.
        """
        self.free(batches_only=True)
        lifetimes = self._lifetimes
        try:
            if lifetimes is None:
                self._store.perform(put)
            else:
                write_patiently(
                    lambda: self._store.perform(put),
                    free=self.free,
                    wait=self._listen,
                    may_shrink=lambda: not self.closed and lifetimes.may_shrink,
                )
        except StoreFullError as full:
            raise ObjectStoreFullError(str(full)) from None
