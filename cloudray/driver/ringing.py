"""Ringing for batches that a driver stores in the background."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

from cloudray.bells.base import Doorbell
from cloudray.bells.hints import Hint
from cloudray.driver.background import Background
from cloudray.protocol.records import Batch, seal
from cloudray.store.layout import QueueName

#: How long the rings for what was stored last may keep a driver that ends; without them agents
#: find it by their scans.
LAST_RINGS_S = 2.0


class Ringing:
    """Announces each batch while it is stored, and rings when it is there."""

    def __init__(
        self, bell: Doorbell, on_stored: Callable[[QueueName, Batch], Awaitable[None]]
    ) -> None:
        """`on_stored` is told of each batch before the bell is rung for it."""
        self._bell = bell
        self._on_stored = on_stored
        self._announcing: dict[bytes, asyncio.Task[None]] = {}
        #: how many batches are stored, or about to be, and not rung for
        self._unrung = 0
        self._all_rung = asyncio.Event()
        self._used = False

    def begin(self, name: QueueName, batch: Batch) -> None:
        """A batch is about to be stored."""
        self._unrung += 1
        self._all_rung.clear()
        self._used = True
        announcing = self._bell.announce(Hint(name), lambda: seal(batch))
        self._announcing[name.batch] = asyncio.ensure_future(announcing)

    def fail(self, name: QueueName) -> None:
        """It was not stored."""
        self._announcing.pop(name.batch).cancel()
        self._rung()

    async def stored(self, name: QueueName, batch: Batch) -> None:
        """It is stored."""
        announcing = self._announcing.pop(name.batch)
        try:
            await self._on_stored(name, batch)
            await announcing
            await self._bell.ring((Hint(name),))
        finally:
            announcing.cancel()
            self._rung()

    def _rung(self) -> None:
        self._unrung -= 1
        if not self._unrung:
            self._all_rung.set()

    def end(self, background: Background) -> None:
        """Wait a moment for what is still to be rung for, and close the bell."""
        if not self._used:
            return
        closed = threading.Event()

        async def leave() -> None:
            try:
                # A scan finds what nobody hears of.
                with suppress(TimeoutError):
                    async with asyncio.timeout(LAST_RINGS_S):
                        await self._all_rung.wait()
                        await self._bell.flush()
                await self._bell.close()
            finally:
                closed.set()

        background.spawn(leave())
        closed.wait(2 * LAST_RINGS_S)
