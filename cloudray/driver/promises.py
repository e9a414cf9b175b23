"""The futures that were asked for and have not ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache, partial
from typing import Any

from cloudray.driver.following import outcome_of
from cloudray.exceptions import RaySystemError
from cloudray.protocol.records import Word
from cloudray.refs import ObjectRef
from cloudray.store import Store
from cloudray.values.futures import Settler


class Promises:
    """Ends futures when their values exist, and forgets those that nobody wants any more.

    Not thread-safe, but for what it notes of futures that are cancelled: its client holds a lock.
    """

    def __init__(
        self, store: Store, find: Callable[[bytes], Word | None], on_kept: Callable[[], None]
    ) -> None:
        """`find` knows the final words; `on_kept` is called when nothing is promised any more."""
        self._store = store
        self._find = find
        self._on_kept = on_kept
        #: with each future its ref, which keeps the batch from being forgotten
        self._pending: dict[bytes, list[tuple[ObjectRef[Any], Future[Any]]]] = {}
        #: the values of cancelled futures that are still among them
        self._cancelled: deque[bytes] = deque()
        self._settler = Settler()

    def __len__(self) -> int:
        """How many values are promised."""
        return len(self._pending)

    def add(self, ref: ObjectRef[Any], future: Future[Any]) -> None:
        """Promise to end a future when its value exists."""
        self._pending.setdefault(ref.id, []).append((ref, future))
        # On whichever thread cancels it, at any moment: that only makes a note.
        future.add_done_callback(partial(self._note, ref.id))

    def settle(self) -> None:
        """End those whose values exist by now."""
        for identifier in list(self._pending):
            word = self._find(identifier)
            if word is None:
                continue
            # Read by the thread that ends them: it may take long, and fail in any way.
            outcome = cache(partial(outcome_of, self._store, identifier, word))
            for ref, future in self._pending.pop(identifier):
                self._settler.settle(future, outcome, ref)
        if not self._pending:
            self._on_kept()

    @property
    def has_cancelled(self) -> bool:
        """Whether there is anything to forget."""
        return bool(self._cancelled)

    def drop_cancelled(self) -> None:
        """Forget the futures that were cancelled."""
        while self._cancelled:
            identifier = self._cancelled.popleft()
            pairs = self._pending.get(identifier, [])
            pairs[:] = [pair for pair in pairs if not pair[1].cancelled()]
            if not pairs:
                self._pending.pop(identifier, None)
        if not self._pending:
            self._on_kept()

    def take_all(self) -> list[Future[Any]]:
        """The futures that have not ended; nothing is promised any more."""
        left = [future for pairs in self._pending.values() for _, future in pairs]
        self._pending.clear()
        return left

    def close(self) -> None:
        """End the thread that ends futures, after those that are on their way."""
        self._settler.close()

    def _note(self, identifier: bytes, future: Future[Any]) -> None:
        if future.cancelled():
            self._cancelled.append(identifier)


def disappoint(futures: list[Future[Any]], why: str) -> None:
    """End futures whose values will never be."""
    for future in futures:
        if future.set_running_or_notify_cancel():
            future.set_exception(RaySystemError(why))
