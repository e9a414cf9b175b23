"""A store in memory whose operations on some keys wait for a test to let them through."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from cloudray.store import MemoryStore, Op, StoreError


def becomes(condition: Callable[[], bool], limit_s: float = 60.0) -> bool:
    """Wait until something is so that nothing tells of; whether it was in time."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.002)
    return True


class GatedStore(MemoryStore):
    """Notes what is asked of it; what is held waits, what is broken fails."""

    inline = False

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Op] = []
        self._held: dict[str, threading.Event] = {}
        self._broken: set[str] = set()
        self._arrived = threading.Condition()

    def hold(self, key: str) -> None:
        """Let operations on this key wait from now on."""
        self._held[key] = threading.Event()

    def release(self, key: str) -> None:
        """Let them through."""
        self._held[key].set()

    def release_all(self) -> None:
        """Let all through that is held."""
        for gate in self._held.values():
            gate.set()

    def mend_key(self, key: str) -> None:
        """Refuse operations on this key no more."""
        self._broken.discard(key)

    def break_key(self, key: str) -> None:
        """Refuse operations on this key for good."""
        self._broken.add(key)

    def await_asked(self, key: str) -> None:
        """Wait until an operation on this key has been asked for."""
        with self._arrived:
            assert self._arrived.wait_for(
                lambda: any(getattr(op, "key", None) == key for op in self.asked), 60
            )

    async def perform_async(self, op: Op) -> Any:
        """Perform an operation when it is let through."""
        key = getattr(op, "key", "")
        with self._arrived:
            self.asked.append(op)
            self._arrived.notify_all()
        if key in self._held:
            await asyncio.to_thread(self._held[key].wait, 60)
        if key in self._broken:
            raise StoreError(f"{key} is refused")
        return super().perform(op)
